package policy

import (
	"net/netip"
	"testing"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		allow, deny []string
		visitor     string // "" is unknown
		want        Code
	}{
		{"no rule", nil, nil, "192.0.2.1", ""},
		{"no rule, unknown", nil, nil, "", ""},
		{"allowed", []string{"192.0.2.0/24"}, nil, "192.0.2.1", ""},
		{"not allowed", []string{"192.0.2.0/24"}, nil, "192.0.3.1", CodeAddress},
		{"first and last", []string{"192.0.2.4/30"}, nil, "192.0.2.7", ""},
		{"one behind", []string{"192.0.2.4/30"}, nil, "192.0.2.8", CodeAddress},
		{"single", []string{"192.0.2.1"}, nil, "192.0.2.1", ""},
		{"mapped IPv4", []string{"192.0.2.1"}, nil, "::ffff:192.0.2.1", ""},
		{"mapped and denied", nil, []string{"192.0.2.1"}, "::ffff:192.0.2.1", CodeAddress},
		{"IPv6", []string{"2001:db8::/32"}, nil, "2001:db8:1::1", ""},
		{"IPv6 with zone", []string{"fe80::/10"}, nil, "fe80::1%eth0", ""},
		{"denied with zone", nil, []string{"fe80::/10"}, "fe80::1%eth0", CodeAddress},
		{"other family", []string{"0.0.0.0/0"}, nil, "2001:db8::1", CodeAddress},
		{"all of both", []string{"0.0.0.0/0", "::/0"}, nil, "2001:db8::1", ""},
		{"deny wins", []string{"192.0.2.0/24"}, []string{"192.0.2.66"}, "192.0.2.66", CodeAddress},
		{"deny of a network wins", []string{"192.0.2.66"}, []string{"192.0.2.0/24"}, "192.0.2.66", CodeAddress},
		{"denied", nil, []string{"192.0.2.0/24"}, "192.0.2.1", CodeAddress},
		{"not denied", nil, []string{"192.0.2.0/24"}, "192.0.3.1", ""},
		{"unknown and allow", []string{"0.0.0.0/0", "::/0"}, nil, "", CodeAddress},
		{"unknown and deny", nil, []string{"192.0.2.0/24"}, "", CodeAddress},
	} {
		g := guard(t, Policy{AllowIP: prefixes(tt.allow...), DenyIP: prefixes(tt.deny...)})
		r := request()
		if r.Visitor = (netip.Addr{}); tt.visitor != "" {
			r.Visitor = netip.MustParseAddr(tt.visitor)
		}
		if got := admit(t, g, r); got != tt.want {
			t.Errorf("%s: request: got %q, want %q", tt.name, got, tt.want)
		}
		if got := code(t, g.AdmitConn(r.Visitor)); got != tt.want {
			t.Errorf("%s: connection: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestParsePrefix(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "192.0.2.0/24": "192.0.2.0/24", "2001:db8::/32": "2001:db8::/32", "::1": "::1/128",
		"0.0.0.0/0": "0.0.0.0/0", "": "", "192.0.2.1/24": "", "192.0.2.0/33": "", "localhost": "", "fe80::1%eth0": "",
		"fe80::/10%eth0": "", "::ffff:192.0.2.1": "", "::ffff:192.0.2.0/120": "", "192.0.2": "", "192.0.2.01": "",
	} {
		p, err := ParsePrefix(in)
		if (err == nil) != (want != "") || err == nil && p.String() != want {
			t.Errorf("%q: got %v, %v; want %q", in, p, err, want)
		}
	}
}
