package tunnel_test

import (
	"strings"
	"testing"

	"adit/tunnel"
)

func TestTarget(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		target tunnel.Target
		want   string // of String; empty if Check fails
	}{
		{"name", tunnel.Target{Network: tunnel.TCP, Host: "db.internal", Port: 5432}, "db.internal:5432"},
		{"IPv6", tunnel.Target{Network: tunnel.TCP, Host: "::1", Port: 22}, "[::1]:22"},
		{"datagrams", tunnel.Target{Network: tunnel.UDP, Host: "1.1.1.1", Port: 53}, "1.1.1.1:53/udp"},
		{"socket", tunnel.Target{Network: tunnel.Unix, Host: "/run/a b.sock"}, "unix:/run/a b.sock"},
		{"service", tunnel.Target{Network: tunnel.Agent, Host: "office", Service: "ssh"}, "@office/ssh"},
		{"no network", tunnel.Target{Host: "a", Port: 1}, ""},
		{"no host", tunnel.Target{Network: tunnel.TCP, Port: 1}, ""},
		{"port 0", tunnel.Target{Network: tunnel.TCP, Host: "a"}, ""},
		{"NUL", tunnel.Target{Network: tunnel.TCP, Host: "a\x00.b", Port: 1}, ""},
		{"NUL in a path", tunnel.Target{Network: tunnel.Unix, Host: "/a\x00"}, ""},
		{"long name", tunnel.Target{Network: tunnel.TCP, Host: strings.Repeat("a", 255), Port: 1}, ""},
		{"abstract socket", tunnel.Target{Network: tunnel.Unix, Host: "@a"}, ""},
		{"path with ..", tunnel.Target{Network: tunnel.Unix, Host: "/run/../a"}, ""},
		{"no service", tunnel.Target{Network: tunnel.Agent, Host: "office"}, ""},
		{"no ID", tunnel.Target{Network: tunnel.Agent, Host: "Office", Service: "ssh"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := tt.target.Check()
			if (err == nil) != (tt.want != "") {
				t.Fatalf("got error %v, want one: %v", err, tt.want == "")
			}
			if err == nil && tt.target.String() != tt.want {
				t.Errorf("got %q, want %q", tt.target, tt.want)
			}
		})
	}
}
