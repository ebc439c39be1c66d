package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Names are looked up over UDP: through a port that is forwarded, and through
// UDP ASSOCIATE of SOCKS5, which drill speaks with the help of socksify. That
// leaves out what is on this machine or its network, so the name server is
// beyond the host that the server runs on.
func TestDNSThroughForwards(t *testing.T) {
	t.Parallel()
	dnsmasq, drill, socksify := need(t, "dnsmasq"), need(t, "drill"), need(t, "socksify")
	n := newNetwork(t)
	const at = "10.79.0.1"
	run(t, 10*time.Second, n.ip, "-n", n.public, "addr", "add", at+"/32", "dev", "lo")
	long := strings.Repeat("a", 200) + "," + strings.Repeat("b", 200) + "," + strings.Repeat("c", 200)
	argv := append(n.in(n.public), dnsmasq, "--keep-in-foreground", "--log-facility=-", "--no-resolv", "--no-hosts",
		"--conf-file=/dev/null", "--listen-address="+at, "--bind-interfaces", "--pid-file=", "--user=root",
		"--address=/wiki.internal/10.1.2.3", "--txt-record=long.internal,"+long)
	start(t, "dnsmasq", exec.Command(argv[0], argv[1:]...))

	s := startServerAt(t, publicIP, n.in(n.public), "--forward", at+":53")
	port, socks := freePort(t), freePort(t)
	a := s.agentVia(t, s.addr, n.in(n.home), "forward", port+":"+at+":53/udp", socks+":socks")
	waitListens(t, a, socks+"  ->")
	conf := filepath.Join(t.TempDir(), "socks.conf")
	if err := os.WriteFile(conf, []byte("logoutput: /dev/null\nroute {\n from: 0.0.0.0/0 to: 0.0.0.0/0 via: 127.0.0.1 port = "+socks+
		"\n proxyprotocol: socks_v5\n command: connect udpassociate\n protocol: tcp udp\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		argv []string
	}{
		{"port", []string{drill, "-p", port, "@127.0.0.1"}},
		{"SOCKS5", []string{"env", "SOCKS_CONF=" + conf, socksify, drill, "@" + at}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ask := func(ctx context.Context, question ...string) (string, error) {
				argv := append(append(n.in(n.home), tt.argv...), question...)
				return try(ctx, 20*time.Second, argv[0], argv[1:]...)
			}
			eventually(t, "an answer", 20*time.Second, func(ctx context.Context) error { // dnsmasq has to be there
				_, err := ask(ctx, "wiki.internal")
				return err
			})
			got, err := ask(t.Context(), "wiki.internal")
			if err != nil || !strings.Contains(got, "10.1.2.3") {
				t.Errorf("got %q, %v, want the address 10.1.2.3", got, err)
			}
			got, err = ask(t.Context(), "-b", "1232", "long.internal", "TXT")
			if err != nil || !strings.Contains(got, strings.Repeat("c", 200)) {
				t.Errorf("got %q, %v, want the long record", got, err)
			}
		})
	}
}
