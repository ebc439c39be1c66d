package forward_test

import (
	"strings"
	"testing"

	"adit/forward"
	"adit/tunnel"
)

func TestParseSpec(t *testing.T) {
	t.Parallel()
	tcp := func(host string, port uint16) tunnel.Target {
		return tunnel.Target{Network: tunnel.TCP, Host: host, Port: port}
	}
	udp := func(host string, port uint16) tunnel.Target {
		return tunnel.Target{Network: tunnel.UDP, Host: host, Port: port}
	}
	direct := func(local string, target tunnel.Target) forward.Spec {
		network := "tcp"
		if target.Network == tunnel.UDP {
			network = "udp"
		}
		return forward.Spec{Kind: forward.Direct, Network: network, Local: local, Target: target}
	}
	socks := func(local string) forward.Spec {
		return forward.Spec{Kind: forward.Socks, Network: "tcp", Local: local}
	}
	reverse := func(port uint16, target tunnel.Target) forward.Spec {
		return forward.Spec{Kind: forward.Reverse, Port: port, Target: target}
	}
	office := tunnel.Target{Network: tunnel.Agent, Host: "office", Service: "ssh"}
	socket := tunnel.Target{Network: tunnel.Unix, Host: "/run/x.sock"}
	for _, tt := range []struct {
		in   string
		want forward.Spec
	}{
		// the examples of chisel's help
		{"3000", direct("127.0.0.1:3000", tcp("localhost", 3000))},
		{"example.com:3000", direct("127.0.0.1:3000", tcp("example.com", 3000))},
		{"3000:google.com:80", direct("127.0.0.1:3000", tcp("google.com", 80))},
		{"192.168.0.5:3000:google.com:80", direct("192.168.0.5:3000", tcp("google.com", 80))},
		{"socks", socks("127.0.0.1:1080")},
		{"5000:socks", socks("127.0.0.1:5000")},
		{"192.168.0.5:5000:socks", socks("192.168.0.5:5000")},
		{"R:2222:localhost:22", reverse(2222, tcp("localhost", 22))},
		{"stdio:example.com:22", forward.Spec{Kind: forward.Stdio, Target: tcp("example.com", 22)}},
		{"1.1.1.1:53/udp", direct("127.0.0.1:53", udp("1.1.1.1", 53))},
		{"5353:1.1.1.1:53/udp", direct("127.0.0.1:5353", udp("1.1.1.1", 53))},
		{"5353/udp:1.1.1.1:53/udp", direct("127.0.0.1:5353", udp("1.1.1.1", 53))},
		{"3000:80/tcp", direct("127.0.0.1:3000", tcp("localhost", 80))},
		{"R:3000", reverse(3000, tcp("localhost", 3000))},
		{"R:0.0.0.0:3000:10.0.0.1:80", reverse(3000, tcp("10.0.0.1", 80))},
		{"[::1]:2222:[fd00::2]:22", direct("[::1]:2222", tcp("fd00::2", 22))},
		// and what they do not have
		{"2222:@office/ssh", direct("127.0.0.1:2222", office)},
		{"stdio:@office/ssh", forward.Spec{Kind: forward.Stdio, Target: office}},
		{"5432:unix:/run/x.sock", direct("127.0.0.1:5432", socket)},
		{"unix:/tmp/a:db:5432", forward.Spec{Kind: forward.Direct, Network: "unix", Local: "/tmp/a", Target: tcp("db", 5432)}},
		{"unix:/tmp/a:unix:/run/x.sock", forward.Spec{Kind: forward.Direct, Network: "unix", Local: "/tmp/a", Target: socket}},
		{"unix:/tmp/a:socks", forward.Spec{Kind: forward.Socks, Network: "unix", Local: "/tmp/a"}},
		{"R:unix:/run/x.sock", reverse(0, socket)},
	} {
		t.Run(strings.ReplaceAll(tt.in, "/", "|"), func(t *testing.T) {
			t.Parallel()
			got, err := forward.ParseSpec(tt.in)
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
	for _, in := range []string{
		"", ":", "a", "a:b", "0", "70000", "2222:", ":22", "2222::22", "1:2:3:4", "a:1:b:2:c:3",
		"2222:host:22/sctp", "5353/tcp:1.1.1.1:53/udp", "stdio", "stdio:socks", "stdio:2222:host:22", "stdio:host:53/udp",
		"R:socks", "R:5000:socks", "R:stdio:a:1", "R:53:1.1.1.1:53/udp", "R:10.0.0.1:3000:a:80", "R:2222:@office/ssh",
		"@office/ssh", "2222:@office", "2222:@Office/ssh", "2222:@office/", "2222:unix:", "2222:unix:x", "unix:/a",
		"unix:/a:1.1.1.1:53/udp", "[::1:2222:host:22", "[host]:2222:a:22", "[::1]x:22:a:22", "2222:ho st:22", "2222:a\x00b:22",
		"2222:" + strings.Repeat("a", 600) + ":22",
	} {
		if got, err := forward.ParseSpec(in); err == nil {
			t.Errorf("%q: got %+v, want an error", in, got)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"3000", "R:2222:localhost:22", "stdio:a:22", "unix:/a:[::1]:53/udp", "1:@a/b", "5000:socks"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		spec, err := forward.ParseSpec(s)
		if err != nil {
			return
		}
		if spec.Kind != forward.Socks {
			if err := spec.Target.Check(); err != nil {
				t.Errorf("%q has the target %+v: %v", s, spec.Target, err)
			}
		}
		if (spec.Local == "") != (spec.Kind == forward.Stdio || spec.Kind == forward.Reverse) {
			t.Errorf("%q listens at %q", s, spec.Local)
		}
	})
}
