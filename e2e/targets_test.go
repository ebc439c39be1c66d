package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/internal/testdir"
)

// targets are what programs reach through adit: an sshd, a PostgreSQL and a web
// server, which returns what it is sent. Each is at a port of 127.0.0.1 and at
// a unix socket.
type targets struct {
	sshd        *sshd
	at, sockets [3]string // in this order
	file        string    // to copy
	repo        string    // to clone, with a copy of the file
}

func startTargets(t *testing.T) *targets {
	t.Helper()
	git := need(t, "git")
	for _, program := range []string{"scp", "psql", "curl", "nc"} {
		need(t, program)
	}
	d := startSSHD(t, "127.0.0.1")
	sql, sqlSocket := startPostgres(t)
	dir := testdir.Short(t)
	g := &targets{
		sshd:    d,
		sockets: [3]string{filepath.Join(dir, "ssh"), sqlSocket, filepath.Join(dir, "web")},
		file:    filepath.Join(dir, "file"),
		repo:    filepath.Join(dir, "repo"),
	}
	ln, err := net.Listen("unix", g.sockets[2])
	if err != nil {
		t.Fatal(err)
	}
	web := func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	}
	far := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(web)}}
	far.Start()
	t.Cleanup(far.Close)
	g.at = [3]string{"127.0.0.1:" + d.port, "127.0.0.1:" + sql, upstream(t, web)}
	socat(t, g.sockets[0], "TCP:"+g.at[0]) // OpenSSH itself listens on no socket

	run(t, time.Minute, git, "init", "-q", g.repo)
	writeFile(t, g.file, 1<<20)
	writeFile(t, filepath.Join(g.repo, "file"), 1<<20)
	run(t, time.Minute, git, "-C", g.repo, "add", "file")
	run(t, time.Minute, git, "-C", g.repo, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "file")

	eventually(t, "postgres answers", 30*time.Second, func(ctx context.Context) error {
		_, err := try(ctx, 10*time.Second, need(t, "psql"), "-X", "-U", "postgres", "-h", "127.0.0.1", "-p", sql, "-c", "select 1")
		return err
	})
	waitLogin(t, d.login(t, "127.0.0.1", d.port))
	return g
}

// ports are those of the targets.
func (g *targets) ports() (ports [3]string) {
	for i, at := range g.at {
		_, ports[i], _ = net.SplitHostPort(at)
	}
	return ports
}

// A way is how programs reach the targets.
type way struct {
	name string
	ssh  []string // options, of scp and git too; the host is 127.0.0.1
	psql []string // the program, and where it finds the database
	curl []string // options, and the URL
}

// straight is the way to ports of this machine.
func straight(name string, ports [3]string) way {
	return way{
		name: name,
		ssh:  []string{"-o", "Port=" + ports[0]},
		psql: []string{"psql", "-h", "127.0.0.1", "-p", ports[1]},
		curl: []string{"http://127.0.0.1:" + ports[2] + "/"},
	}
}

// socketNames are those under which programs find the sockets of a folder.
var socketNames = [3]string{"ssh", ".s.PGSQL.5432", "web"}

// bySocket is the way to the sockets of a folder.
func bySocket(name, dir string) way {
	return way{
		name: name,
		ssh:  []string{"-o", "ProxyCommand=nc -U " + filepath.Join(dir, socketNames[0])},
		psql: []string{"psql", "-h", dir},
		curl: []string{"--unix-socket", filepath.Join(dir, socketNames[2]), "http://target/"},
	}
}

// journeys has every program go a way.
func (g *targets) journeys(t *testing.T, w way) {
	for _, p := range []struct {
		name string
		run  func(*testing.T, way)
	}{{"ssh", g.ssh}, {"scp", g.scp}, {"git clone", g.clone}, {"psql", g.psql}, {"curl", g.curl}} {
		t.Run(w.name+"/"+p.name, func(t *testing.T) {
			t.Parallel()
			p.run(t, w)
		})
	}
}

// ssh has the target return what it is sent. What ends that is the half-close.
func (g *targets) ssh(t *testing.T, w way) {
	const size = 1 << 20
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, need(t, "ssh"), slices.Concat(g.sshd.options(), w.ssh, []string{g.sshd.user + "@127.0.0.1", "cat; exit 3"})...)
	c.Env, c.Stdin, c.WaitDelay = environ(), body(size), time.Second
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("got %v, want exit status 3: %s", err, errs.String())
	}
	if err := checkBody(bytes.NewReader(out), size); err != nil {
		t.Error(err)
	}
}

// scp copies a file there and back.
func (g *targets) scp(t *testing.T, w way) {
	dir := t.TempDir()
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	remote := g.sshd.user + "@127.0.0.1:" + there
	options := append(g.sshd.options(), w.ssh...)
	run(t, time.Minute, need(t, "scp"), append(slices.Clip(options), g.file, remote)...)
	run(t, time.Minute, need(t, "scp"), append(slices.Clip(options), remote, back)...)
	if got, want := sumOf(t, back), sumOf(t, g.file); got != want {
		t.Errorf("there and back: got SHA-256 %x, want %x", got, want)
	}
}

func (g *targets) clone(t *testing.T, w way) {
	to := filepath.Join(t.TempDir(), "clone")
	var ssh strings.Builder
	ssh.WriteString(need(t, "ssh"))
	for _, o := range append(g.sshd.options(), w.ssh...) {
		fmt.Fprintf(&ssh, " '%s'", o)
	}
	run(t, time.Minute, need(t, "git"), "-c", "core.sshCommand="+ssh.String(), "clone", "-q", "ssh://"+g.sshd.user+"@127.0.0.1"+g.repo, to)
	if got, want := sumOf(t, filepath.Join(to, "file")), sumOf(t, g.file); got != want {
		t.Errorf("got SHA-256 %x, want %x", got, want)
	}
}

// psql asks for more than one answer's worth.
func (g *targets) psql(t *testing.T, w way) {
	args := append(slices.Clip(w.psql[1:]), "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres",
		"-c", "select n from generate_series(1, 50000) n", "-c", "select sum(n) from generate_series(1, 100000) n")
	got := run(t, time.Minute, need(t, w.psql[0]), args...)
	if n := strings.Count(got, "\n"); n != 50001 || !strings.HasSuffix(got, "\n50000\n5000050000\n") {
		t.Errorf("got %d lines that end in %q, want 50001 with the sum 5000050000", n, got[max(0, len(got)-40):])
	}
}

func (g *targets) curl(t *testing.T, w way) {
	got := run(t, time.Minute, need(t, "curl"), append([]string{"-sS", "-q", "--fail", "--noproxy", "", "--data-binary", "@" + g.file}, w.curl...)...)
	if err := checkBody(strings.NewReader(got), 1<<20); err != nil {
		t.Error(err)
	}
}
