package forward_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"adit/auth"
	"adit/forward"
	"adit/internal/testtcp"
	"adit/tunnel"
)

func scope(t *testing.T, texts ...string) (s auth.Scope) {
	t.Helper()
	for _, text := range texts {
		r, err := auth.ParseForwardRule(text)
		if err != nil {
			t.Fatal(err)
		}
		s.Forward = append(s.Forward, r)
	}
	return s
}

// listen takes connections in and closes them.
func listen(t *testing.T) netip.AddrPort {
	t.Helper()
	return netip.MustParseAddrPort(testtcp.ServeInTurn(t, func(net.Conn) {}))
}

// A name is allowed by what it resolves to, and looked up once.
func TestDialName(t *testing.T) {
	t.Parallel()
	at := listen(t)
	for _, tt := range []struct {
		name    string
		addrs   []string
		rules   []string
		want    tunnel.RefuseCode // 0 for none
		lookups int
	}{
		{"name that a rule names, on loopback", []string{"127.0.0.1"}, []string{"db.test:*"}, tunnel.RefuseForbidden, 1},
		{"every name, on loopback", []string{"127.0.0.1"}, []string{"*:*"}, tunnel.RefuseForbidden, 1},
		{"wide prefix", []string{"127.0.0.1"}, []string{"0.0.0.0/0:*"}, tunnel.RefuseForbidden, 1},
		{"mapped to IPv6", []string{"::ffff:127.0.0.1"}, []string{"*:*"}, tunnel.RefuseForbidden, 1},
		{"metadata", []string{"169.254.169.254"}, []string{"*:*"}, tunnel.RefuseForbidden, 1},
		{"metadata over IPv6", []string{"fd00:ec2::254"}, []string{"*:*"}, tunnel.RefuseForbidden, 1},
		{"link-local", []string{"fe80::1%lo"}, []string{"*:*", "[fe80::/10]:*"}, tunnel.RefuseForbidden, 1},
		{"unspecified", []string{"0.0.0.0"}, []string{"*:*", "0.0.0.0/0:*"}, tunnel.RefuseForbidden, 1},
		{"prefix that is explicit", []string{"127.0.0.1"}, []string{"127.0.0.0/8:*"}, 0, 1},
		{"allowed beside one that is not", []string{"127.0.0.2", "127.0.0.1"}, []string{"127.0.0.1:*"}, 0, 1},
		{"mapped and explicit", []string{"::ffff:127.0.0.1"}, []string{"127.0.0.1:*"}, 0, 1},
		{"no address", nil, []string{"db.test:*"}, tunnel.RefuseUnknownHost, 1},
		{"no address, and no rule of names", nil, []string{"127.0.0.1:*"}, tunnel.RefuseForbidden, 1},
		{"another name", []string{"127.0.0.1"}, []string{"other.test:*"}, tunnel.RefuseForbidden, 0},
		{"another port", []string{"127.0.0.1"}, []string{"127.0.0.1:1"}, tunnel.RefuseForbidden, 0},
		{"no rule", []string{"127.0.0.1"}, nil, tunnel.RefuseForbidden, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lookups := 0
			d := forward.Dialer{Lookup: func(_ context.Context, host string) (addrs []netip.Addr, err error) {
				lookups++
				if host != "DB.test." {
					t.Errorf("got a look-up of %q, want that of DB.test. and of nothing in a search domain", host)
				}
				for _, a := range tt.addrs {
					addrs = append(addrs, netip.MustParseAddr(a))
				}
				if addrs == nil {
					err = &net.DNSError{IsNotFound: true}
				}
				return addrs, err
			}}
			c, err := d.Dial(t.Context(), tunnel.Target{Network: tunnel.TCP, Host: "DB.test.", Port: at.Port()}, forward.Rules{scope(t, tt.rules...)})
			if err == nil {
				c.Close()
			}
			re, _ := errors.AsType[*tunnel.RefusedError](err)
			if (re == nil) != (tt.want == 0) || re != nil && re.Code != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if lookups != tt.lookups {
				t.Errorf("got %d look-ups, want %d", lookups, tt.lookups)
			}
		})
	}
	t.Run("without rules at all", func(t *testing.T) {
		t.Parallel()
		var d forward.Dialer
		_, err := d.Dial(t.Context(), tunnel.Target{Network: tunnel.TCP, Host: "127.0.0.1", Port: at.Port()}, nil)
		if re, ok := errors.AsType[*tunnel.RefusedError](err); !ok || re.Code != tunnel.RefuseForbidden {
			t.Errorf("got %v, want it forbidden", err)
		}
	})
}

// A rule about all hosts does not open what listens on the server's own machine.
func TestDialOwnAddress(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancel(t.Context())
	cancel() // nothing is sent
	list := func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.ParseIP("192.0.2.7"), Mask: net.CIDRMask(24, 32)}}, nil
	}
	for _, tt := range []struct {
		name, host string
		rules      []string
		list       func() ([]net.Addr, error)
		want       tunnel.RefuseCode
	}{
		{"all names", "self.test", []string{"*:*"}, list, tunnel.RefuseForbidden},
		{"all names, its address", "192.0.2.7", []string{"*:*"}, list, tunnel.RefuseForbidden},
		{"mapped to IPv6", "::ffff:192.0.2.7", []string{"*:*"}, list, tunnel.RefuseForbidden},
		{"all addresses", "self.test", []string{"0.0.0.0/0:*", "[::/0]:*"}, list, tunnel.RefuseForbidden},
		{"nobody knows them", "192.0.2.8", []string{"*:*"}, func() ([]net.Addr, error) { return nil, errors.New("no") }, tunnel.RefuseForbidden},
		{"another", "192.0.2.8", []string{"*:*"}, list, tunnel.RefuseUpstreamTimeout},
		{"a network", "192.0.2.7", []string{"192.0.2.0/24:*"}, list, tunnel.RefuseUpstreamTimeout},
		{"its name", "self.test", []string{"self.test:80"}, list, tunnel.RefuseUpstreamTimeout},
		{"two spellings of all", "192.0.2.7", []string{"*:*", "192.0.2.7:80"}, list, tunnel.RefuseUpstreamTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := forward.Dialer{
				Addrs: tt.list,
				Lookup: func(context.Context, string) ([]netip.Addr, error) {
					return []netip.Addr{netip.MustParseAddr("192.0.2.7")}, nil
				},
			}
			_, err := d.Dial(gone, tunnel.Target{Network: tunnel.TCP, Host: tt.host, Port: 80}, forward.Rules{scope(t, tt.rules...)})
			if re, ok := errors.AsType[*tunnel.RefusedError](err); !ok || re.Code != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// Datagrams go to one host: a rule about a network does not open its broadcast
// address, which the rules cannot tell from others.
func TestDialBroadcast(t *testing.T) {
	t.Parallel()
	var d forward.Dialer
	c, err := d.Dial(t.Context(), tunnel.Target{Network: tunnel.UDP, Host: "127.255.255.255", Port: 9}, forward.Rules{scope(t, "127.0.0.0/8:*")})
	if err == nil {
		defer c.Close()
		if _, err = c.Write([]byte("hello, all")); err == nil {
			t.Error("a datagram went to a broadcast address")
		}
	}
}
