package admin

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"adit/auth"
)

// A name that DNS could make lead here is never taken for one of ours.
func FuzzHost(f *testing.F) {
	var g guard
	g.init(&Options{Token: auth.NewSecret(), Hosts: []string{"adit.internal"}})
	for _, host := range []string{"localhost:9090", "127.0.0.1", "[::1]:80", "[::ffff:10.0.0.1%eth0]", "adit.internal.", "evil.example", "]127.0.0.1[", "1.2.3.4.nip.io", "[[::1]]"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if !g.knows(host) {
			return
		}
		name := host
		if h, _, err := net.SplitHostPort(host); err == nil {
			name = h
		}
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err != nil && name != "localhost" && name != "adit.internal" {
			t.Errorf("%q is taken for a name of ours", host)
		}
	})
}
