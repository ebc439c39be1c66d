package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/internal/testdir"
)

// waitListens waits until an agent has printed where a forward listens. To
// connect would be a connection to the target.
func waitListens(t *testing.T, a *process, what string) {
	t.Helper()
	a.waitLog(t, what, 20*time.Second, func(log string) bool { return strings.Contains(log, what) })
}

// forwardWays are all those of adit forward, adit socks and adit stdio. The agents
// have the flags that lead them to the server.
func forwardWays(t *testing.T, g *targets, flags []string) (ways []way) {
	t.Helper()
	agent := func(args ...string) *process {
		return start(t, "agent", aditCommand(slices.Concat([]string{binary}, args, flags)))
	}
	services := [3]string{"@office/ssh", "@office/db", "@office/web"}
	file := filepath.Join(t.TempDir(), "adit.yaml")
	beside := [3]string{freePort(t), freePort(t), freePort(t)}
	offered := "tunnels:\n"
	for i, s := range services {
		_, name, _ := strings.Cut(s, "/")
		offered += fmt.Sprintf("  - {tcp: '%s', id: office, service: %s}\n", g.at[i], name)
	}
	offered += "forward:\n"
	for i, p := range beside {
		offered += fmt.Sprintf("  - %s:%s\n", p, g.at[i])
	}
	if err := os.WriteFile(file, []byte(offered), 0o600); err != nil {
		t.Fatal(err)
	}
	office := agent("agent", "--config", file)

	var locals []string
	ports := func(name string, to [3]string) {
		var at [3]string
		for i := range to {
			at[i] = freePort(t)
			locals = append(locals, at[i]+":"+to[i])
		}
		ways = append(ways, straight(name, at))
	}
	sockets := func(name string, to [3]string) {
		dir := testdir.Short(t)
		for i := range to {
			locals = append(locals, "unix:"+filepath.Join(dir, socketNames[i])+":"+to[i])
		}
		ways = append(ways, bySocket(name, dir))
	}
	there := [3]string{"unix:" + g.sockets[0], "unix:" + g.sockets[1], "unix:" + g.sockets[2]}
	ports("port", g.at)
	sockets("socket here", g.at)
	ports("socket there", there)
	sockets("sockets at both ends", there)
	ports("service of another agent", services)
	waitListens(t, agent(append([]string{"forward"}, locals...)...), locals[len(locals)-1][:strings.LastIndex(locals[len(locals)-1], ":@")]+"  ->")

	socks := freePort(t)
	waitListens(t, agent("socks", socks), socks+"  ->")
	waitListens(t, office, beside[2]+`"`)
	waitListens(t, office, services[2]+"  ->")
	return append(ways,
		straight("beside tunnels", beside),
		g.bySOCKS(t, socks),
		g.byCONNECT(t, socks),
		byStdio(t, "stdio", g.at, flags),
		byStdio(t, "stdio to a service", services, flags))
}

// bySOCKS is the way through SOCKS5, which psql takes with proxychains.
func (g *targets) bySOCKS(t *testing.T, port string) way {
	chain := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(chain, []byte("strict_chain\n[ProxyList]\nsocks5 127.0.0.1 "+port+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := straight("SOCKS5", g.ports())
	w.ssh = append(w.ssh, "-o", "ProxyCommand=nc -X 5 -x 127.0.0.1:"+port+" %h %p")
	w.psql = append([]string{need(t, "proxychains4"), "-q", "-f", chain}, w.psql...)
	w.curl = []string{"--proxy", "socks5h://127.0.0.1:" + port, "http://localhost:" + g.ports()[2] + "/"}
	return w
}

// byCONNECT is the way through CONNECT, which psql takes with socat.
func (g *targets) byCONNECT(t *testing.T, port string) way {
	w := straight("CONNECT", g.ports())
	w.ssh = append(w.ssh, "-o", "ProxyCommand=nc -X connect -x 127.0.0.1:"+port+" %h %p")
	dir := testdir.Short(t)
	socat(t, filepath.Join(dir, socketNames[1]), "PROXY:127.0.0.1:"+g.at[1]+",proxyport="+port)
	w.psql = bySocket("", dir).psql
	w.curl = append([]string{"--proxytunnel", "--proxy", "http://127.0.0.1:" + port}, w.curl...)
	return w
}

// byStdio is the way through adit stdio, which psql and curl take with socat.
func byStdio(t *testing.T, name string, to [3]string, flags []string) way {
	command := func(target string) string {
		return strings.Join(slices.Concat([]string{binary, "stdio", target}, flags), " ")
	}
	dir := testdir.Short(t)
	for i := 1; i < 3; i++ {
		socat(t, filepath.Join(dir, socketNames[i]), `EXEC:"`+command(to[i])+`"`)
	}
	w := bySocket(name, dir)
	w.ssh = []string{"-o", "ProxyCommand=" + command(to[0])}
	return w
}

// socat connects each connection to a socket with something else.
func socat(t *testing.T, socket, to string) {
	t.Helper()
	c := exec.Command(need(t, "socat"), "UNIX-LISTEN:"+socket+",fork", to)
	c.Env = environ()
	p := start(t, "socat", c)
	eventually(t, "socat listens", 20*time.Second, func(context.Context) error {
		select {
		case <-p.done:
			t.Fatal("socat ended before it listened")
		default:
		}
		_, err := os.Stat(socket)
		return err
	})
}

// Real programs go every way there is, plain and where nothing but HTTPS gets
// out: the server is behind the nginx of docs/getting-started.md then.
func TestProgramsThroughForwards(t *testing.T) {
	t.Parallel()
	g := startTargets(t)
	rules := append([]string{"@office/*", "localhost:" + g.ports()[2]}, g.at[:]...)
	for _, socket := range g.sockets {
		rules = append(rules, "unix:"+socket)
	}
	t.Run("plain", func(t *testing.T) {
		s := startServer(t, "--forward", strings.Join(rules, ","))
		for _, w := range forwardWays(t, g, []string{"--server", "ws://" + s.addr, "--secret-file", s.secret}) {
			g.journeys(t, w)
		}
	})
	t.Run("behind nginx with TLS", func(t *testing.T) {
		front := freePort(t)
		s := startServer(t, "--public-url", "https://tunnel.example.com:"+front, "--trusted-proxies", "127.0.0.1", "--forward", strings.Join(rules, ","))
		ca := documentedNginx(t, front, s.addr)
		for _, w := range forwardWays(t, g, []string{"--server", "wss://localhost:" + front, "--secret-file", s.secret, "--ca-file", ca}) {
			g.journeys(t, w)
		}
	})
}

func TestForwardsAreRefused(t *testing.T) {
	t.Parallel()
	curl := need(t, "curl")
	refused, socks := freePort(t), freePort(t)
	s := startServer(t, "--forward", "127.0.0.1:9")
	waitListens(t, s.agent(t, "forward", refused+":127.0.0.1:1", socks+":socks"), socks+"  ->")
	for _, tt := range []struct {
		name, want string // in curl's error
		args       []string
	}{
		{"forward", "exit status", []string{"http://127.0.0.1:" + refused + "/"}},
		{"SOCKS5", "(2)", []string{"--proxy", "socks5h://127.0.0.1:" + socks, "http://127.0.0.1:1/"}},
		{"CONNECT", "403", []string{"--proxytunnel", "--proxy", "http://127.0.0.1:" + socks, "http://127.0.0.1:1/"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := try(t.Context(), time.Minute, curl, append([]string{"-sS", "-q", "--noproxy", ""}, tt.args...)...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	t.Run("stdio", func(t *testing.T) {
		_, err := try(t.Context(), time.Minute, binary, "stdio", "127.0.0.1:1", "--server", "ws://"+s.addr, "--secret-file", s.secret)
		if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "no rule allows this target (forbidden)") {
			t.Errorf("got %v, want status 1 and the reason", err)
		}
	})
}

// A copy over a carrier that is cut every second comes whole.
func TestSCPThroughForwardSurvivesCuts(t *testing.T) {
	t.Parallel()
	scp := need(t, "scp")
	size := int64(48 << 20)
	limit := []string{"-l", "100000"} // kbit/s, for the copy to last some seconds
	if long() {
		size, limit = 2<<30, nil
	}
	d := startSSHD(t, "127.0.0.1")
	s := startServer(t, "--forward", "127.0.0.1:"+d.port)
	c := startCutter(t, s.addr)
	port := freePort(t)
	waitListens(t, s.agentVia(t, c.ln.Addr().String(), nil, "forward", port+":127.0.0.1:"+d.port), port+"  ->")
	waitLogin(t, d.login(t, "127.0.0.1", port))
	dir := t.TempDir()
	file, there := filepath.Join(dir, "file"), filepath.Join(dir, "there")
	writeFile(t, file, size)
	copied := make(chan error, 1)
	go func() { // try is bounded
		_, err := try(t.Context(), 10*time.Minute, scp, slices.Concat(d.options(), limit, []string{"-P", port, file, d.user + "@127.0.0.1:" + there})...)
		copied <- err
	}()
	every := time.NewTicker(time.Second)
	defer every.Stop()
	cuts := 0
	for {
		select {
		case <-every.C:
			cuts += min(c.cut(), 1)
			continue
		case err := <-copied:
			if err != nil {
				t.Fatalf("after %d cuts: %v", cuts, err)
			}
		}
		break
	}
	if got, want := sumOf(t, there), sumOf(t, file); got != want {
		t.Errorf("got SHA-256 %x, want %x", got, want)
	}
	if info, err := os.Stat(there); err != nil || info.Size() != size {
		t.Errorf("got %v, %v, want %d bytes", info, err, size)
	}
	if cuts < 2 {
		t.Errorf("the carrier was cut %d times, want at least 2", cuts)
	}
	t.Logf("%d MiB came whole over a carrier that was cut %d times", size>>20, cuts)
}
