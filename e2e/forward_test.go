package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// startForwards starts a server with rules and an agent that forwards, and
// returns the command that connects to a target.
func startForwards(t *testing.T, rules []string, forwards ...string) (s *server, a *process, stdio string) {
	t.Helper()
	s = startServer(t, "--forward", strings.Join(rules, ","))
	a = s.agent(t, append([]string{"forward"}, forwards...)...)
	for _, f := range forwards {
		port, _, _ := strings.Cut(f, ":")
		if !strings.HasSuffix(f, "/udp") && port != "unix" {
			waitListens(t, a, port+"  ->")
		}
	}
	return s, a, s.stdio()
}

// waitListens waits until an agent has printed where a forward listens. To
// connect would be a connection to the target.
func waitListens(t *testing.T, a *process, what string) {
	t.Helper()
	a.waitLog(t, what, 20*time.Second, func(log string) bool { return strings.Contains(log, what) })
}

func (s *server) stdio() string {
	return fmt.Sprintf("%s stdio %%h:%%p --server ws://%s --secret-file %s", binary, s.addr, s.secret)
}

func TestCurlThroughForwards(t *testing.T) {
	t.Parallel()
	curl := need(t, "curl")
	addr := upstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "from the target") })
	_, to, _ := net.SplitHostPort(addr)
	direct, socks, refused := freePort(t), freePort(t), freePort(t)
	socket := filepath.Join(t.TempDir(), "s")
	s, _, _ := startForwards(t, []string{"127.0.0.1:" + to, "localhost:" + to, "@office/web"},
		direct+":"+addr, socks+":socks", refused+":127.0.0.1:1", "unix:"+socket+":localhost:"+to)
	s.agent(t, "tcp", addr, "--id", "office", "--service", "web")
	service := freePort(t)
	waitListens(t, s.agent(t, "forward", service+":@office/web"), service+"  ->")
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"forward", []string{"http://127.0.0.1:" + direct + "/"}},
		{"socket", []string{"--unix-socket", socket, "http://target/"}},
		{"SOCKS5", []string{"--proxy", "socks5h://127.0.0.1:" + socks, "http://localhost:" + to + "/"}},
		{"SOCKS5 with an address", []string{"--proxy", "socks5://127.0.0.1:" + socks, "http://127.0.0.1:" + to + "/"}},
		{"CONNECT", []string{"--proxytunnel", "--proxy", "http://127.0.0.1:" + socks, "http://localhost:" + to + "/"}},
		{"service of another agent", []string{"--retry", "10", "--retry-all-errors", "http://127.0.0.1:" + service + "/"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := run(t, time.Minute, curl, append([]string{"-sS", "-q", "--noproxy", ""}, tt.args...)...); got != "from the target" {
				t.Errorf("got %q, want what the target says", got)
			}
		})
	}
	for _, tt := range []struct {
		name, want string // in curl's error
		args       []string
	}{
		{"forward refused", "exit status", []string{"http://127.0.0.1:" + refused + "/"}},
		{"SOCKS5 refused", "(2)", []string{"--proxy", "socks5h://127.0.0.1:" + socks, "http://127.0.0.1:1/"}},
		{"CONNECT refused", "403", []string{"--proxytunnel", "--proxy", "http://127.0.0.1:" + socks, "http://127.0.0.1:1/"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := try(t.Context(), time.Minute, curl, append([]string{"-sS", "-q", "--noproxy", ""}, tt.args...)...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestSSHThroughForwards(t *testing.T) {
	t.Parallel()
	d := startSSHD(t, "127.0.0.1")
	port, socks := freePort(t), freePort(t)
	s, _, stdio := startForwards(t, []string{"127.0.0.1:" + d.port, "@office/ssh"}, port+":127.0.0.1:"+d.port, socks+":socks")
	s.agent(t, "tcp", "127.0.0.1:"+d.port, "--id", "office", "--service", "ssh")
	service := fmt.Sprintf("%s stdio @office/ssh --server ws://%s --secret-file %s", binary, s.addr, s.secret)
	for _, tt := range []struct {
		name, port string
		options    []string
	}{
		{"forward", port, nil},
		{"stdio", d.port, []string{"-o", "ProxyCommand=" + stdio}},
		{"stdio to a service", d.port, []string{"-o", "ProxyCommand=" + service}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ssh := slices.Insert(d.login(t, "127.0.0.1", tt.port), 1, tt.options...)
			waitLogin(t, ssh)
			if got := run(t, time.Minute, ssh[0], append(slices.Clip(ssh[1:]), "seq 1 20000")...); strings.Count(got, "\n") != 20000 {
				t.Errorf("got %d lines, want 20000", strings.Count(got, "\n"))
			}
		})
	}
	nc := need(t, "nc")
	through := map[string]string{
		"forward":            "",
		"stdio":              stdio,
		"stdio to a service": service,
		"SOCKS5":             fmt.Sprintf("%s -X 5 -x 127.0.0.1:%s %%h %%p", nc, socks),
		"CONNECT":            fmt.Sprintf("%s -X connect -x 127.0.0.1:%s %%h %%p", nc, socks),
	}
	for name, command := range through {
		t.Run("scp and git clone through "+name, func(t *testing.T) {
			scp, git := need(t, "scp"), need(t, "git")
			at, options, quoted := d.port, d.options(), ""
			if command == "" {
				at = port
			} else {
				options, quoted = append(options, "-o", "ProxyCommand="+command), " -o 'ProxyCommand="+command+"'"
			}
			dir := t.TempDir()
			file, there, back := filepath.Join(dir, "file"), filepath.Join(dir, "there"), filepath.Join(dir, "back")
			writeFile(t, file, 8<<20)
			remote := d.user + "@127.0.0.1:" + there
			run(t, time.Minute, scp, append(options, "-P", at, file, remote)...)
			run(t, time.Minute, scp, append(options, "-P", at, remote, back)...)
			if got, want := sumOf(t, back), sumOf(t, file); got != want {
				t.Errorf("there and back: got SHA-256 %x, want %x", got, want)
			}
			clones(t, git, strings.Join(append([]string{need(t, "ssh")}, d.options()...), " ")+quoted, d.user+"@127.0.0.1:"+at)
		})
	}
	t.Run("stdio refused", func(t *testing.T) {
		_, err := try(t.Context(), time.Minute, binary, "stdio", "127.0.0.1:1", "--server", "ws://"+s.addr, "--secret-file", s.secret)
		if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "no rule allows this target (forbidden)") {
			t.Errorf("got %v, want status 1 and the reason", err)
		}
	})
}

func TestPostgreSQLThroughForwards(t *testing.T) {
	t.Parallel()
	psql := need(t, "psql")
	at := startPostgres(t)
	port := freePort(t)
	dir := t.TempDir()
	var far string // the socket of postgres
	eventually(t, "postgres says where its socket is", 30*time.Second, func(ctx context.Context) error {
		out, err := try(ctx, 10*time.Second, psql, "-X", "-q", "-At", "-U", "postgres", "-h", "127.0.0.1", "-p", at, "-c", "show unix_socket_directories")
		far = filepath.Join(strings.TrimSpace(out), ".s.PGSQL."+at)
		return err
	})
	toSocket := freePort(t)
	startForwards(t, []string{"127.0.0.1:" + at, "unix:" + far}, port+":127.0.0.1:"+at, toSocket+":unix:"+far,
		"unix:"+filepath.Join(dir, ".s.PGSQL.5432")+":127.0.0.1:"+at)
	for name, where := range map[string][]string{
		"tcp": {"-h", "127.0.0.1", "-p", port}, "socket": {"-h", dir}, "socket of the server": {"-h", "127.0.0.1", "-p", toSocket},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-X", "-q", "-At", "-U", "postgres", "-c", "select sum(n) from generate_series(1, 100000) n"}, where...)
			eventually(t, "postgres answers", 30*time.Second, func(ctx context.Context) error {
				got, err := try(ctx, 10*time.Second, psql, args...)
				if err == nil && strings.TrimSpace(got) != "5000050000" {
					t.Errorf("got %q, want 5000050000", got)
				}
				return err
			})
		})
	}
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

// The way out is HTTPS alone: the server is behind the nginx of
// docs/getting-started.md.
func TestSSHThroughForwardBehindNginxWithTLS(t *testing.T) {
	t.Parallel()
	need(t, "nginx")
	d := startSSHD(t, "127.0.0.1")
	front := freePort(t)
	s := startServer(t, "--public-url", "https://tunnel.example.com:"+front, "--trusted-proxies", "127.0.0.1", "--forward", "127.0.0.1:"+d.port)
	ca := documentedNginx(t, front, s.addr)
	stdio := fmt.Sprintf("ProxyCommand=%s stdio %%h:%%p --server wss://localhost:%s --secret-file %s --ca-file %s", binary, front, s.secret, ca)
	ssh := slices.Insert(d.login(t, "127.0.0.1", d.port), 1, "-o", stdio)
	waitLogin(t, ssh)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, ssh[0], append(slices.Clip(ssh[1:]), "wc -c")...)
	c.Env = environ()
	c.Stdin = body(8 << 20)
	counted, err := c.Output()
	if err != nil || strings.TrimSpace(string(counted)) != fmt.Sprint(8<<20) {
		t.Errorf("remote wc: got %q, %v, want %d", counted, err, 8<<20)
	}
}
