package ingress

import (
	"net/netip"
	"testing"

	"adit/policy"
)

func TestForwardedAddr(t *testing.T) {
	t.Parallel()
	h := &HTTP{opts: HTTPOptions{TrustedProxies: networks(t, "10.0.0.0/8", "2001:db8::/32")}}
	for _, tt := range []struct {
		name, forwardedFor, forwarded, want string
	}{
		{"a proxy for itself", "", "", "10.0.0.1"},
		{"one", "192.0.2.1", "", "192.0.2.1"},
		{"the visitor's lie before it", "198.51.100.9, 192.0.2.1", "", "192.0.2.1"},
		{"through two proxies", "192.0.2.1, 10.2.3.4", "", "192.0.2.1"},
		{"proxies alone", "10.9.9.9, 10.2.3.4", "", "10.9.9.9"},
		{"with port", "192.0.2.1:1234", "", "192.0.2.1"},
		{"IPv6", "2001:470::1", "", "2001:470::1"},
		{"IPv6 in brackets", "[2001:470::1]", "", "2001:470::1"},
		{"IPv6 with port", "[2001:470::1]:80", "", "2001:470::1"},
		{"IPv6 proxy", "192.0.2.1, 2001:db8::5", "", "192.0.2.1"},
		{"mapped", "::ffff:192.0.2.1", "", "192.0.2.1"},
		{"unknown", "192.0.2.1, unknown", "", ""},
		{"rubbish", "192.0.2.1, <b>", "", ""},
		{"rubbish before", "<b>, 192.0.2.1", "", "192.0.2.1"},
		{"empty elements", ", 192.0.2.1, ,", "", "192.0.2.1"},
		{"forwarded", "", "for=192.0.2.1;proto=https", "192.0.2.1"},
		{"forwarded, quoted", "", `proto=http; For="[2001:470::1]:4711"`, "2001:470::1"},
		{"forwarded, two", "", "for=198.51.100.9, for=192.0.2.1;by=10.0.0.2, for=10.1.1.1", "192.0.2.1"},
		{"forwarded, comma in quotes", "", `for="192.0.2.1, for=198.51.100.9"`, ""},
		{"forwarded, obfuscated", "", "for=_hidden", ""},
		{"forwarded without for", "", "proto=https", ""},
		{"both agree", "192.0.2.1", "for=192.0.2.1", "192.0.2.1"},
		{"both disagree", "192.0.2.1", "for=198.51.100.9", ""},
		{"other notation", "192.0.2.01", "", ""},
	} {
		want := netip.Addr{}
		if tt.want != "" {
			want = netip.MustParseAddr(tt.want)
		}
		if got := h.forwardedAddr(netip.MustParseAddr("10.0.0.1"), tt.forwardedFor, tt.forwarded); got != want {
			t.Errorf("%s: got %v, want %v", tt.name, got, want)
		}
	}
}

func FuzzForwardedAddr(f *testing.F) {
	f.Add("192.0.2.1, 10.0.0.1", `for="[2001:db8::1]:4711";proto=http, for=10.0.0.1`)
	h := &HTTP{opts: HTTPOptions{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	peer := netip.MustParseAddr("10.0.0.1")
	f.Fuzz(func(t *testing.T, forwardedFor, forwarded string) {
		a := h.forwardedAddr(peer, forwardedFor, forwarded)
		// What comes before a proxy's own observation changes nothing.
		if b := h.forwardedAddr(peer, forwardedFor+", 192.0.2.7", ""); b != netip.MustParseAddr("192.0.2.7") {
			t.Fatalf("%q before 192.0.2.7 yields %v", forwardedFor, b)
		}
		if a.IsValid() && (a.Is4In6() || a.Zone() != "") {
			t.Fatalf("%q and %q yield %v", forwardedFor, forwarded, a)
		}
	})
}

// The address that rules see is the one that the proxies forward, and only from
// them.
func TestPolicyBehindProxy(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		for _, tt := range []struct {
			name, trusted, fields string
			want                  int
		}{
			{"forwarded", "127.0.0.1/32", "X-Forwarded-For: 192.0.2.1\r\n", 200},
			{"forwarded in two fields", "127.0.0.1/32", "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 192.0.2.1\r\n", 200},
			{"lie before", "127.0.0.1/32", "X-Forwarded-For: 192.0.2.1, 198.51.100.1\r\n", 403},
			{"nothing forwarded", "127.0.0.1/32", "", 403},
			{"not trusted", "10.0.0.1/32", "X-Forwarded-For: 192.0.2.1\r\n", 403},
			{"hop by hop", "127.0.0.1/32", "Connection: X-Forwarded-For\r\nX-Forwarded-For: 198.51.100.1\r\n", 403},
			{"look-alike", "127.0.0.1/32", "X_Forwarded_For: 192.0.2.1\r\n", 403},
			{"rfc 7239", "127.0.0.1/32", "Forwarded: for=192.0.2.1\r\n", 200},
			{"they disagree", "127.0.0.1/32", "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.2\r\n", 403},
		} {
			_, addr, _ := startGuarded(t, way, policy.Policy{AllowIP: networks(t, "192.0.2.0/24")}, func(o *HTTPOptions) {
				o.TrustedProxies = networks(t, tt.trusted)
			})
			c := dial(t, addr)
			c.send("GET / HTTP/1.1\r\nHost: web\r\n%s\r\n", tt.fields)
			if resp, _ := c.response("GET"); resp.StatusCode != tt.want {
				t.Errorf("%s, %s: got %d, want %d", way, tt.name, resp.StatusCode, tt.want)
			}
		}
	}
}
