package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// startTCPOverWebsocket starts both programs in front of a target, and returns
// the local port that leads to it. With nginx the page's configuration is
// between them, and TLS.
func startTCPOverWebsocket(t *testing.T, target string, nginx bool) (port string) {
	t.Helper()
	at := "127.0.0.1:" + freePort(t)
	s := start(t, "server", aditCommand([]string{binary, "tcp-over-websocket", "server", "-listen_ws", at, "-connect_tcp", target}))
	waitListens(t, s, "Listening to")
	connect, trusted := "ws://"+at, ""
	if nginx {
		front := freePort(t)
		trusted = nginxOf(t, "dialects/tcp-over-websocket.md", front, at)
		connect = "wss://localhost:" + front + "/any/path"
	}
	port = freePort(t)
	c := aditCommand([]string{binary, "tcp-over-websocket", "client", "-listen_tcp", "127.0.0.1:" + port, "-connect_ws", connect})
	if trusted != "" {
		c.Env = append(c.Env, "SSL_CERT_FILE="+trusted)
	}
	waitListens(t, start(t, "client", c), "Listening to")
	return port
}

// eachWay runs a test over plain connections and behind nginx with TLS.
func eachWay(t *testing.T, test func(t *testing.T, nginx bool)) {
	for name, nginx := range map[string]bool{"plain": false, "behind nginx with TLS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, nginx)
		})
	}
}

func TestSSHThroughTCPOverWebsocket(t *testing.T) {
	t.Parallel()
	scp, git := need(t, "scp"), need(t, "git")
	d := startSSHD(t, "127.0.0.1")
	eachWay(t, func(t *testing.T, nginx bool) {
		port := startTCPOverWebsocket(t, "127.0.0.1:"+d.port, nginx)
		ssh := d.login(t, "127.0.0.1", port)
		waitLogin(t, ssh)

		// The half-close of its input is what ends the remote command.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := exec.CommandContext(ctx, ssh[0], append(slices.Clip(ssh[1:]), "wc -c")...)
		c.Env = environ()
		c.Stdin = body(8 << 20)
		if counted, err := c.Output(); err != nil || strings.TrimSpace(string(counted)) != fmt.Sprint(8<<20) {
			t.Errorf("remote wc: got %q, %v, want %d", counted, err, 8<<20)
		}

		dir := t.TempDir()
		file, there, back := filepath.Join(dir, "file"), filepath.Join(dir, "there"), filepath.Join(dir, "back")
		writeFile(t, file, 32<<20)
		remote := d.user + "@127.0.0.1:" + there
		run(t, time.Minute, scp, append(d.options(), "-P", port, file, remote)...)
		run(t, time.Minute, scp, append(d.options(), "-P", port, remote, back)...)
		if got, want := sumOf(t, back), sumOf(t, file); got != want {
			t.Errorf("there and back: got SHA-256 %x, want %x", got, want)
		}
		clones(t, git, strings.Join(append([]string{need(t, "ssh")}, d.options()...), " "), d.user+"@127.0.0.1:"+port)
	})
}

func TestPostgreSQLThroughTCPOverWebsocket(t *testing.T) {
	t.Parallel()
	psql := need(t, "psql")
	at := startPostgres(t)
	eachWay(t, func(t *testing.T, nginx bool) {
		port := startTCPOverWebsocket(t, "127.0.0.1:"+at, nginx)
		eventually(t, "postgres answers", 30*time.Second, func(ctx context.Context) error {
			got, err := try(ctx, 10*time.Second, psql, "-X", "-q", "-At", "-U", "postgres", "-h", "127.0.0.1", "-p", port,
				"-c", "select sum(n) from generate_series(1, 100000) n")
			if err == nil && strings.TrimSpace(got) != "5000050000" {
				t.Errorf("got %q, want 5000050000", got)
			}
			return err
		})
	})
}

func TestCurlThroughTCPOverWebsocket(t *testing.T) {
	t.Parallel()
	curl := need(t, "curl")
	addr := upstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "from the target") })
	eachWay(t, func(t *testing.T, nginx bool) {
		port := startTCPOverWebsocket(t, addr, nginx)
		if got := run(t, time.Minute, curl, "-sS", "-q", "--noproxy", "*", "http://127.0.0.1:"+port+"/"); got != "from the target" {
			t.Errorf("got %q, want what the target says", got)
		}
	})
	t.Run("target down", func(t *testing.T) {
		t.Parallel()
		port := startTCPOverWebsocket(t, "127.0.0.1:1", false)
		// The reset comes so early that curl may not see that it was connected.
		_, err := try(t.Context(), time.Minute, curl, "-sS", "-q", "--noproxy", "*", "http://127.0.0.1:"+port+"/")
		if err == nil || !strings.Contains(err.Error(), "(56)") && !strings.Contains(err.Error(), "(7)") {
			t.Errorf("got %v, want a reset", err)
		}
	})
}

// Either side may be killed: both ends of a connection see that it is over, and
// the next one works once the side is back.
func TestTCPOverWebsocketKilled(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	at, port := "127.0.0.1:"+freePort(t), freePort(t)
	command := map[string][]string{
		"server": {binary, "tcp-over-websocket", "server", "-listen_ws", at, "-connect_tcp", ln.Addr().String()},
		"client": {binary, "tcp-over-websocket", "client", "-listen_tcp", "127.0.0.1:" + port, "-connect_ws", "ws://" + at},
	}
	running := map[string]*process{}
	begin := func(name string) {
		running[name] = start(t, name, aditCommand(command[name]))
		waitListens(t, running[name], "Listening to")
	}
	begin("server")
	begin("client")
	for _, name := range []string{"server", "client"} {
		const many = 50
		var ends []net.Conn
		for range many {
			caller, err := net.DialTimeout("tcp", "127.0.0.1:"+port, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer caller.Close()
			target, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer target.Close()
			ends = append(ends, caller, target)
		}
		running[name].kill()
		for i, c := range ends {
			c.SetDeadline(time.Now().Add(20 * time.Second))
			if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
				t.Errorf("%s killed: end %d read %d, %v, want that it is over", name, i, n, err)
			}
		}
		begin(name)
	}
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

// clones clones a repository from where ssh, a command, leads.
func clones(t *testing.T, git, ssh, at string) {
	t.Helper()
	dir := t.TempDir()
	repo, clone := filepath.Join(dir, "repo"), filepath.Join(dir, "clone")
	run(t, time.Minute, git, "init", "-q", repo)
	writeFile(t, filepath.Join(repo, "file"), 2<<20)
	run(t, time.Minute, git, "-C", repo, "add", "file")
	run(t, time.Minute, git, "-C", repo, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "file")
	run(t, time.Minute, git, "-c", "core.sshCommand="+ssh, "clone", "-q", "ssh://"+at+repo, clone)
	if got, want := sumOf(t, filepath.Join(clone, "file")), sumOf(t, filepath.Join(repo, "file")); got != want {
		t.Errorf("git clone: got SHA-256 %x, want %x", got, want)
	}
}
