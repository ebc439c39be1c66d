package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"adit/internal/testca"
	"adit/internal/testtcp"
)

// A failoverSite is a server with three doors, each with a route whose members
// are two agents and a client of websocktunnel, in that order.
type failoverSite struct {
	*tlsServer
	dir   string
	admin string
	port  string // of the door for TCP
	web   *testca.Authority
	site  *httptest.Server // whose key nobody else has
	raw   string
	plain string
	doors map[string]func(context.Context) error
}

const failoverHost = "www.home.test"

func startFailoverSite(t *testing.T) *failoverSite {
	t.Helper()
	need(t, "go")
	f := &failoverSite{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t), port: freePort(t), web: testca.New(t)}
	f.plain = upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	f.site = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	f.site.TLS = &tls.Config{Certificates: []tls.Certificate{f.web.Issue(t, testca.Server(failoverHost))}}
	f.site.Config.ErrorLog = log.New(io.Discard, "", 0) // visitors who give up
	f.site.StartTLS()
	t.Cleanup(f.site.Close)
	f.raw = echoOnce(t)
	secrets := f.write(t, "websocktunnel", tunnelSecret+"\n")
	f.tlsServer = startTLS(t, "--admin", f.admin, "--tcp-ports", "20000-29999", "--websocktunnel-secret-file", secrets)
	f.doors = map[string]func(context.Context) error{"http": f.visitHTTP, "tcp": f.visitTCP, "tls": f.visitTLS}
	return f
}

func (f *failoverSite) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// echoOnce answers a line with "hello".
func echoOnce(t *testing.T) string {
	t.Helper()
	return testtcp.Serve(t, func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, 2)); err == nil {
			io.WriteString(c, "hello")
		}
	})
}

// agent starts an agent with a tunnel for each door, whose ids end in name.
func (f *failoverSite) agent(t *testing.T, name string) *process {
	t.Helper()
	return f.tlsServer.agent(t, "agent", "--config", f.write(t, name+".yaml", fmt.Sprintf(
		"tunnels:\n  - {http: %q, id: web-%s}\n  - {tcp: %q, id: raw-%s}\n  - {tls: %q, id: site-%s}\n",
		f.plain, name, f.raw, name, f.site.Listener.Addr(), name)))
}

// clients starts clients of websocktunnel, one for each door.
func (f *failoverSite) clients(t *testing.T, name string) {
	t.Helper()
	link := filepath.Join(f.dir, "wst-client")
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	for id, addr := range map[string]string{"web-": f.plain, "raw-": f.raw, "site-": f.site.Listener.Addr().String()} {
		id += name
		claims, err := json.Marshal(map[string]any{"tid": id, "nbf": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix()})
		if err != nil {
			t.Fatal(err)
		}
		text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
		mac := hmac.New(sha256.New, []byte(tunnelSecret))
		io.WriteString(mac, text)
		_, port, _ := net.SplitHostPort(addr)
		c := start(t, "wst-client", aditCommand([]string{link, "http://" + f.addr, id, port, "--token", text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))}))
		c.waitLog(t, "word of the connection", 10*time.Second, func(log string) bool { return strings.Contains(log, "connected to websocktunnel") })
	}
}

// routes writes a file with the routes of all doors, whose members have these
// names in the order of their priorities.
func (f *failoverSite) routes(t *testing.T, file, more string, names ...string) string {
	t.Helper()
	text := "routes:\n"
	for _, door := range [][2]string{{"web", "web-"}, {":" + f.port, "raw-"}, {failoverHost, "site-"}} {
		text += fmt.Sprintf("  - name: %q\n", door[0])
		if door[0] == failoverHost {
			text += "    kind: tls\n"
		}
		text += "    members:\n"
		for i, n := range names {
			text += fmt.Sprintf("      - {id: %s%s, priority: %d}\n", door[1], n, i+1)
		}
	}
	return f.write(t, file, text+more)
}

// adit runs adit route.
func (f *failoverSite) route(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, time.Minute, binary, append(append([]string{"route"}, args...), "--admin", f.admin, "--data-dir", filepath.Join(f.server.dir, "data"))...)
}

func wantHello(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err == nil && string(b) != "hello" {
		err = fmt.Errorf("got %q, want hello", b)
	}
	return err
}

func (f *failoverSite) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err == nil {
		end, _ := ctx.Deadline()
		c.SetDeadline(end)
	}
	return c, err
}

func (f *failoverSite) visitHTTP(ctx context.Context) error {
	c, err := f.dial(ctx, f.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return getHello(c, "web."+domain)
}

func getHello(c net.Conn, host string) error {
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
	b, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if head, body, _ := strings.Cut(string(b), "\r\n\r\n"); !strings.HasPrefix(head, "HTTP/1.1 200") || !strings.Contains(body, "hello") {
		return fmt.Errorf("got %.200q, want 200 and hello", b)
	}
	return nil
}

func (f *failoverSite) visitTCP(ctx context.Context) error {
	c, err := f.dial(ctx, "127.0.0.1:"+f.port)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "x\n"); err != nil {
		return err
	}
	return wantHello(c)
}

func (f *failoverSite) visitTLS(ctx context.Context) error { return f.visitTLSAt(ctx, f.tlsAddr) }

// visitWithout visits the site without adit between.
func (f *failoverSite) visitWithout(ctx context.Context) error {
	return f.visitTLSAt(ctx, f.site.Listener.Addr().String())
}

func (f *failoverSite) visitTLSAt(ctx context.Context, addr string) error {
	c, err := f.dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	tc := tls.Client(c, &tls.Config{ServerName: failoverHost, RootCAs: f.web.Pool})
	if err := tc.HandshakeContext(ctx); err != nil {
		return err
	}
	return getHello(tc, failoverHost)
}

// A watchedDoor is one that a visitor comes to each 10 ms.
type watchedDoor struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	visits  int
	failed  []error
	slowest time.Duration
	last    time.Time     // when a visitor who came was served
	gap     time.Duration // the longest time without one
}

func watchDoor(t *testing.T, visit func(context.Context) error) *watchedDoor {
	w := &watchedDoor{last: time.Now()}
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.done.Go(func() {
		every := time.NewTicker(10 * time.Millisecond)
		defer every.Stop()
		for ctx.Err() == nil {
			<-every.C
			w.done.Go(func() {
				limit, cancel := context.WithTimeout(context.Background(), 6*time.Second)
				defer cancel()
				began := time.Now()
				err := visit(limit)
				w.mu.Lock()
				defer w.mu.Unlock()
				w.visits++
				if err != nil {
					w.failed = append(w.failed, err)
					return
				}
				w.slowest = max(w.slowest, time.Since(began))
				w.gap = max(w.gap, time.Since(w.last))
				w.last = time.Now()
			})
		}
	})
	return w
}

// end waits for the last visitor.
func (w *watchedDoor) end() {
	w.stop()
	w.done.Wait()
}

// during watches all doors while f does something, and for a moment before and
// after. Each may fail as often as allowed says, and be without a served visitor
// for at most limit, and what a busy machine adds to that: in each of the three
// processes that a visit passes as much as it adds to one that passes none.
func (f *failoverSite) during(t *testing.T, what string, allowed map[string]int, limit time.Duration, do func()) {
	t.Helper()
	all := make(map[string]*watchedDoor)
	for name, visit := range f.doors {
		all[name] = watchDoor(t, visit)
	}
	without := watchDoor(t, f.visitWithout)
	served := func(n int) {
		t.Helper()
		for name, w := range all {
			w.mu.Lock()
			from := w.visits - len(w.failed)
			w.mu.Unlock()
			eventually(t, name+" is served", 20*time.Second, func(context.Context) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.visits-len(w.failed) < from+n {
					return errors.New("not yet")
				}
				return nil
			})
		}
	}
	served(20)
	do()
	served(20)
	without.end()
	limit += 3 * without.gap
	for name, w := range all {
		w.end()
		t.Logf("%s: %s: %d visitors, %d failed, longest wait %v, longest time without a served one %v", what, name, w.visits, len(w.failed), w.slowest.Round(time.Millisecond), w.gap.Round(time.Millisecond))
		if len(w.failed) > allowed[name] {
			t.Errorf("%s: %s: %d of %d failed, the first with %v; want at most %d", what, name, len(w.failed), w.visits, w.failed[0], allowed[name])
		}
		if w.gap > limit {
			t.Errorf("%s: %s: nobody was served for %v, want at most %v", what, name, w.gap, limit)
		}
	}
}

// Visitors of all doors who come each 10 ms hardly notice that an agent is killed,
// that another one stops in its tracks, and that routes are swapped; the last
// member speaks another protocol.
func TestFailover(t *testing.T) {
	f := startFailoverSite(t)
	a, b := f.agent(t, "a"), f.agent(t, "b")
	f.clients(t, "c")
	f.route(t, "set", f.routes(t, "routes.yaml", "", "a", "b", "c"))
	for name, visit := range f.doors {
		eventually(t, name+" leads somewhere", 20*time.Second, visit)
	}

	// One whose bytes an agent has just taken then cannot be helped.
	taken := map[string]int{"tcp": 3, "tls": 3}
	f.during(t, "kill -9", taken, time.Second, a.kill)
	f.during(t, "SIGSTOP", taken, 5*time.Second, func() { syscall.Kill(b.pid, syscall.SIGSTOP) })
	f.during(t, "SIGCONT", nil, 5*time.Second, func() { syscall.Kill(b.pid, syscall.SIGCONT) })

	extra := freePort(t)
	sets := []string{
		f.routes(t, "one.yaml", "", "c", "b"),
		f.routes(t, "two.yaml", fmt.Sprintf("  - {name: ':%s', members: [{id: raw-b}]}\n", extra), "b", "c"),
	}
	f.during(t, "hot swap", nil, time.Second, func() {
		for i := range 20 {
			f.route(t, "set", sets[i%2])
		}
	})
	busy, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	before := f.route(t, "list", "--rules")
	bad := f.routes(t, "bad.yaml", fmt.Sprintf("  - {name: ':%d', members: [{id: raw-b}]}\n", busy.Addr().(*net.TCPAddr).Port), "a")
	f.during(t, "a set that cannot be", nil, time.Second, func() {
		out, err := try(t.Context(), time.Minute, binary, "route", "set", bad, "--admin", f.admin, "--data-dir", filepath.Join(f.server.dir, "data"))
		if err == nil || !strings.Contains(out+err.Error(), "in use") {
			t.Errorf("got %q, %v, want that the port is in use", out, err)
		}
	})
	if after := f.route(t, "list", "--rules"); after != before {
		t.Errorf("got routes %s\nwant those of before, %s", after, before)
	}

	// The server is killed too: its routes are there again, and the ports.
	f.server.kill()
	f.server.start(t)
	for name, visit := range f.doors {
		eventually(t, name+" leads somewhere after a restart", 20*time.Second, visit)
	}
}

// What docs/failover.md says under "Try it" works as it stands there, but for
// ports: on a clean machine, with two agents and a web server that alone has its
// key.
func TestDocumentedFailover(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"go", "openssl", "curl", "sh"} {
		need(t, program)
	}
	page, err := os.ReadFile("../docs/failover.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n## Try it\n")
	text, _, _ = strings.Cut(text, "\n## ")
	listen, port, web := "127.0.0.1:"+freePort(t), freePort(t), freePort(t)
	text = strings.NewReplacer(
		"9443", web, "8443", port, "9090", freePort(t),
		"adit server ", "adit server --listen "+listen+" ",
		"adit tls ", "adit tls --server ws://"+listen+" ",
	).Replace(text)
	var blocks []string // of the shell
	for _, m := range regexp.MustCompile("(?s)```([a-z]*)\n(.*?)```").FindAllStringSubmatch(text, -1) {
		if m[1] == "sh" {
			blocks = append(blocks, m[2])
		}
	}
	yaml := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(text)
	if len(blocks) != 6 || yaml == nil {
		t.Fatalf("docs/failover.md has %d blocks of commands, want 6, and a file", len(blocks))
	}
	dir := t.TempDir()
	if err := os.Symlink(binary, filepath.Join(dir, "adit")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "failover.yaml"), []byte(yaml[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	shell := func(name, script string) *process {
		c := exec.Command("sh", "-ec", script)
		c.Dir = dir
		c.Env = append(environ(), "HOME="+dir, "XDG_STATE_HOME=", "PATH="+dir+":"+os.Getenv("PATH"))
		return start(t, name, c)
	}
	waitAccepts(t, shell("web server", blocks[0]), "127.0.0.1:"+web)
	server := shell("server", blocks[1])
	waitAccepts(t, server, listen)
	first, second := shell("home", blocks[2]), shell("office", blocks[3])
	for _, a := range []*process{first, second} {
		a.waitLog(t, "an address", 20*time.Second, func(log string) bool { return strings.Contains(log, "->") })
	}
	set := shell("route", blocks[4])
	select {
	case <-set.done:
	case <-time.After(20 * time.Second):
		t.Fatal("adit route does not end")
	}
	if out, _ := set.log.read(); !strings.Contains(out, "+ www.home.test\n") || !strings.Contains(out, "1 route changed") || !strings.Contains(out, "office") {
		t.Errorf("adit route printed %q, want the new route and its members", out)
	}
	visitors := shell("visitors", "set +e\n"+blocks[5]) // they go on after one that fails
	codes := func() (good, all int) {
		out, _ := visitors.log.read()
		return strings.Count(out, "200\n"), strings.Count(out, "\n")
	}
	served := func(n int) {
		t.Helper()
		from, _ := codes()
		eventually(t, fmt.Sprint(n, " more visitors are served"), 30*time.Second, func(context.Context) error {
			if good, all := codes(); good < from+n {
				return fmt.Errorf("%d of %d", good, all)
			}
			return nil
		})
	}
	served(10)
	first.kill()
	served(10)
	if good, all := codes(); all-good > 3 {
		out, _ := visitors.log.read()
		t.Errorf("%d of %d visitors were not served, want at most 3:\n%s", all-good, all, out)
	}
}
