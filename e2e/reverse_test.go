package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Ports of the server lead to what the agent's machine reaches, over UDP and on
// the server's loopback alone, and SOCKS5 into the whole of its network: from
// the server's machine, and from that of another agent.
func TestReverse(t *testing.T) {
	t.Parallel()
	dnsmasq, drill, curl, socat := need(t, "dnsmasq"), need(t, "drill"), need(t, "curl"), need(t, "socat")
	n := newNetwork(t)
	d := startSSHD(t, "127.0.0.1", n.in(n.home)...)
	dns, web := freePort(t), freePort(t)
	long := strings.Repeat("a", 200) + "," + strings.Repeat("b", 200) + "," + strings.Repeat("c", 200)
	atHome := func(name string, argv ...string) *process {
		argv = append(n.in(n.home), argv...)
		return start(t, name, exec.Command(argv[0], argv[1:]...))
	}
	atHome("dnsmasq", dnsmasq, "--keep-in-foreground", "--log-facility=-", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--port="+dns,
		"--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file=", "--user=root", "--address=/wiki.internal/10.1.2.3", "--txt-record=long.internal,"+long)
	answer := filepath.Join(t.TempDir(), "answer")
	if err := os.WriteFile(answer, []byte("sed '/^\r$/q' >/dev/null\nprintf 'HTTP/1.0 200 OK\\r\\nContent-Length: 9\\r\\n\\r\\nfrom home'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	atHome("socat", socat, "TCP-LISTEN:"+web+",bind=127.0.0.1,reuseaddr,fork", "EXEC:sh "+answer)

	ssh, udp, udpHere, udpOwn, udpAway, socks, lan := freePort(t), freePort(t), freePort(t), freePort(t), freePort(t), "1080", freePort(t)
	s := startServerAt(t, "0.0.0.0", n.in(n.public), "--tcp-ports", ssh+","+socks, "--udp-ports", udp+","+udpHere+","+udpOwn, "--forward", "@office/*,@names/dns")
	home, public := n.in(n.home), n.in(n.public)
	_, listen, _ := strings.Cut(s.addr, ":")
	addr := publicIP + ":" + listen
	waitListens(t, s.agentVia(t, addr, home, "forward", "--socks-allow", "localhost:"+web, "--id", "home",
		"R:127.0.0.1:"+ssh+":localhost:"+d.port, "R:"+udp+":localhost:"+dns+"/udp", "R:127.0.0.1:"+udpHere+":localhost:"+dns+"/udp", "R:socks"), "->  socks")
	waitListens(t, s.agentVia(t, addr, home, "udp", dns, "--port", udpOwn, "--id", "dns"), "->  udp://localhost:"+dns)
	waitListens(t, s.agentVia(t, addr, home, "tcp", "socks", "--id", "office", "--service", "net", "--socks-allow", "localhost:"+web), "@office/net  ->  socks")
	waitListens(t, s.agentVia(t, addr, home, "udp", dns, "--id", "names", "--service", "dns"), "@names/dns  ->")
	waitListens(t, s.agentVia(t, addr, public, "forward", lan+":@office/net", udpAway+":@names/dns/udp"), udpAway+"  ->")
	in := func(host, argv []string) (string, error) {
		argv = slices.Concat(host, argv)
		return try(t.Context(), 20*time.Second, argv[0], argv[1:]...)
	}

	t.Run("ssh on the server's loopback", func(t *testing.T) {
		waitLogin(t, d.login(t, "127.0.0.1", ssh, public...))
		if out, err := in(nil, append(d.login(t, publicIP, ssh, home...), "true")); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("from elsewhere: got %q, %v, want the connection refused", out, err)
		}
	})
	for _, tt := range []struct{ name, host, port string }{
		{"R:PORT/udp", publicIP, udp}, {"R:127.0.0.1:PORT/udp", "127.0.0.1", udpHere}, {"adit udp", publicIP, udpOwn}, {"@names/dns/udp", "127.0.0.1", udpAway},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ask := []string{drill, "-p", tt.port, "@" + tt.host}
			eventually(t, "an answer", 20*time.Second, func(context.Context) error { // dnsmasq has to be there
				_, err := in(public, append(ask, "wiki.internal"))
				return err
			})
			for question, want := range map[string]string{"wiki.internal": "10.1.2.3", "-b 1232 long.internal TXT": strings.Repeat("c", 200)} {
				if got, err := in(public, append(ask, strings.Fields(question)...)); err != nil || !strings.Contains(got, want) {
					t.Errorf("%s: got %q, %v, want %s", question, got, err, want)
				}
			}
		})
	}
	through := func(host []string, proxy, port string) (string, error) {
		return in(host, []string{curl, "-sS", "-q", "--noproxy", "", "--max-time", "10", "--proxytunnel", "--proxy", proxy, "http://localhost:" + port + "/"})
	}
	for _, tt := range []struct{ name, at string }{{"R:socks", "127.0.0.1:" + socks}, {"socks of another agent", "127.0.0.1:" + lan}} {
		t.Run(tt.name, func(t *testing.T) {
			for _, scheme := range []string{"socks5h://", "http://"} {
				if got, err := through(public, scheme+tt.at, web); err != nil || got != "from home" {
					t.Errorf("%s: got %q, %v, want what is at home", scheme, got, err)
				}
			}
			if got, err := through(public, "socks5h://"+tt.at, d.port); err == nil || !strings.Contains(err.Error(), "(2)") {
				t.Errorf("where no rule leads: got %q, %v, want it forbidden", got, err)
			}
		})
	}
	if got, err := through(home, "socks5h://"+publicIP+":"+socks, web); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("R:socks from elsewhere: got %q, %v, want no connection", got, err)
	}
}

// An agent that would open its network to everybody does not begin to.
func TestReverseSocksNeedsRules(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for _, args := range [][]string{{"forward", "R:0.0.0.0:1080:socks"}, {"tcp", "socks", "--port", "1080"}} {
		args = append(args, "--server", "ws://"+s.addr, "--secret-file", s.secret)
		_, err := try(t.Context(), time.Minute, binary, args...)
		if err == nil || !strings.Contains(err.Error(), "exit status 2") || !strings.Contains(err.Error(), "--allow-ip") {
			t.Errorf("%q: got %v, want status 2 and what it takes", args[:2], err)
		}
	}
}
