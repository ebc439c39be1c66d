package forward_test

import (
	"net/netip"
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
		if target.Datagrams() {
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
	reverseAt := func(addr string, port uint16, target tunnel.Target) forward.Spec {
		return forward.Spec{Kind: forward.Reverse, Port: port, Addr: netip.MustParseAddr(addr), Target: target}
	}
	exit := func(addr string, port uint16) forward.Spec {
		s := forward.Spec{Kind: forward.ReverseSocks, Port: port}
		if addr != "" {
			s.Addr = netip.MustParseAddr(addr)
		}
		return s
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
		{"0.0.0.0:socks", socks("0.0.0.0:1080")},
		{"192.168.0.5:5000:socks", socks("192.168.0.5:5000")},
		{"R:2222:localhost:22", reverse(2222, tcp("localhost", 22))},
		{"stdio:example.com:22", forward.Spec{Kind: forward.Stdio, Target: tcp("example.com", 22)}},
		{"1.1.1.1:53/udp", direct("127.0.0.1:53", udp("1.1.1.1", 53))},
		{"5353:1.1.1.1:53/udp", direct("127.0.0.1:5353", udp("1.1.1.1", 53))},
		{"5353:1.1.1.1:53/UDP", direct("127.0.0.1:5353", udp("1.1.1.1", 53))},
		{"5353/udp:1.1.1.1:53/udp", direct("127.0.0.1:5353", udp("1.1.1.1", 53))},
		{"3000:80/tcp", direct("127.0.0.1:3000", tcp("localhost", 80))},
		{"R:3000", reverse(3000, tcp("localhost", 3000))},
		{"R:0.0.0.0:3000:10.0.0.1:80", reverse(3000, tcp("10.0.0.1", 80))},
		{"[::1]:2222:[fd00::2]:22", direct("[::1]:2222", tcp("fd00::2", 22))},
		{"R:socks", exit("127.0.0.1", 1080)},
		{"R:5000:socks", exit("127.0.0.1", 5000)},
		// those of its tests
		{"google.com:80", direct("127.0.0.1:80", tcp("google.com", 80))},
		{"R:google.com:80", reverse(80, tcp("google.com", 80))},
		{"示例網站.com:80", direct("127.0.0.1:80", tcp("xn--fsq092hv9ak5e.com", 80))},
		{"127.0.0.1:1081:socks", socks("127.0.0.1:1081")},
		{"localhost:5353:1.1.1.1:53/udp", direct("localhost:5353", udp("1.1.1.1", 53))},
		{"[::1]:8080:google.com:80", direct("[::1]:8080", tcp("google.com", 80))},
		{"R:[::]:3000:[::1]:3000", reverse(3000, tcp("::1", 3000))},
		// what else its grammar has
		{"3000/udp:1.1.1.1:53/udp", direct("127.0.0.1:3000", udp("1.1.1.1", 53))},
		{"1.1.1.1:53/tcp", direct("127.0.0.1:53", tcp("1.1.1.1", 53))},
		{"R:3000/tcp", reverse(3000, tcp("localhost", 3000))},
		{"R:53/udp", reverse(53, udp("localhost", 53))},
		{"R:5353:localhost:53/udp", reverse(5353, udp("localhost", 53))},
		{"R:5353/udp:1.1.1.1:53/udp", reverse(5353, udp("1.1.1.1", 53))},
		{"R:127.0.0.1:5353:localhost:53/udp", reverseAt("127.0.0.1", 5353, udp("localhost", 53))},
		{"R:127.0.0.1:2222:localhost:22", reverseAt("127.0.0.1", 2222, tcp("localhost", 22))},
		{"R:localhost:2222:localhost:22", reverseAt("127.0.0.1", 2222, tcp("localhost", 22))},
		{"R:[::1]:2222:localhost:22", reverseAt("::1", 2222, tcp("localhost", 22))},
		{"R:10.0.0.1:3000:a:80", reverseAt("10.0.0.1", 3000, tcp("a", 80))},
		{"R:[::ffff:10.0.0.1]:3000:a:80", reverseAt("10.0.0.1", 3000, tcp("a", 80))},
		{"R:127.0.0.1:1080:socks", exit("127.0.0.1", 1080)},
		{"R:localhost:1080:socks", exit("127.0.0.1", 1080)},
		{"R:[::1]:1080:socks", exit("::1", 1080)},
		{"R:0.0.0.0:1080:socks", exit("", 1080)},
		// and what they do not have
		{"2222:@office/ssh", direct("127.0.0.1:2222", office)},
		{"5353:@office/dns/udp", direct("127.0.0.1:5353", tunnel.Target{Network: tunnel.AgentUDP, Host: "office", Service: "dns"})},
		{"stdio:@office/ssh", forward.Spec{Kind: forward.Stdio, Target: office}},
		{"5432:unix:/run/x.sock", direct("127.0.0.1:5432", socket)},
		{"unix:/tmp/a:db:5432", forward.Spec{Kind: forward.Direct, Network: "unix", Local: "/tmp/a", Target: tcp("db", 5432)}},
		{"unix:/tmp/a:unix:/run/x.sock", forward.Spec{Kind: forward.Direct, Network: "unix", Local: "/tmp/a", Target: socket}},
		{"unix:/tmp/a:socks", forward.Spec{Kind: forward.Socks, Network: "unix", Local: "/tmp/a"}},
		{"R:unix:/run/x.sock", reverse(0, socket)},
		{"R:127.0.0.1:2222:unix:/run/x.sock", reverseAt("127.0.0.1", 2222, socket)},
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
		"R:", "R:stdio", "R:stdio:a:1", "R:stdio:socks", "R:2222:@office/ssh", "R:host:2222:a:22", "R:0:a:1",
		"R:5353/tcp:a:53/udp", "R:5353/udp:a:53", "R:1080/udp:socks", "R:[fe80::1%eth0]:3000:a:80", "R:127.0.0.1:unix:/run/x.sock",
		"R:1:127.0.0.1:1080:socks", "R:unix:/a:2222:b:22", "R:R:2222:a:22", "R:2222:b:22:stdio", "\xff.com:80",
		"@office/ssh", "2222:@office", "2222:@office/udp/", "2222:@office/dns/tcp", "stdio:@office/dns/udp", "R:5353:@office/dns/udp", "unix:/a:@office/dns/udp", "2222:@Office/ssh", "2222:@office/", "2222:unix:", "2222:unix:x", "unix:/a",
		"unix:/a:1.1.1.1:53/udp", "[::1:2222:host:22", "[host]:2222:a:22", "[::1]x:22:a:22", "2222:ho st:22", "2222:a\x00b:22",
		"2222:" + strings.Repeat("a", 600) + ":22",
	} {
		if got, err := forward.ParseSpec(in); err == nil {
			t.Errorf("%q: got %+v, want an error", in, got)
		}
	}
}

// Whoever writes an IPv6 address as it stands elsewhere is told how it stands
// here.
func TestParseSpecBrackets(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"::1:22:host:22", "2222:fd00::2:22"} {
		if _, err := forward.ParseSpec(text); err == nil || !strings.Contains(err.Error(), "in brackets") {
			t.Errorf("%s: got %v, want it to speak of brackets", text, err)
		}
	}
}
func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"3000", "R:2222:localhost:22", "stdio:a:22", "unix:/a:[::1]:53/udp", "1:@a/b", "5000:socks", "R:[::1]:1080:socks", "R:127.0.0.1:53/udp:a:53/udp", "示例網站.com:80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		spec, err := forward.ParseSpec(s)
		if err != nil {
			return
		}
		if spec.Kind != forward.Socks && spec.Kind != forward.ReverseSocks {
			if err := spec.Target.Check(); err != nil {
				t.Errorf("%q has the target %+v: %v", s, spec.Target, err)
			}
		}
		if (spec.Local == "") != (spec.Kind == forward.Stdio || spec.IsReverse()) {
			t.Errorf("%q listens at %q", s, spec.Local)
		}
	})
}
