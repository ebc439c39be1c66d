package agent_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
)

func TestUpstreams(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	defer func() { f.stop() }() // ends streams that wait for their next request
	web := webUpstream(t)

	sock := filepath.Join(t.TempDir(), "app.sock")
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	unix := httptest.NewUnstartedServer(http.HandlerFunc(answerPath))
	unix.Listener.Close()
	unix.Listener = ln
	unix.Start()
	defer unix.Close()

	secure := httptest.NewUnstartedServer(http.HandlerFunc(answerPath))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // one agent does not trust it
	secure.StartTLS()
	defer secure.Close()
	trusted, untrusted := upstream(t, secure.URL), upstream(t, secure.URL)
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	trusted.TrustOnly(roots)
	untrusted.TrustOnly(x509.NewCertPool())

	closed := refusing(t)
	r := run(t, f.options(
		agent.Tunnel{ID: "plain", Kind: dialect.HTTP, Upstream: upstream(t, web.URL)},
		agent.Tunnel{ID: "unix", Kind: dialect.HTTP, Upstream: upstream(t, "unix:"+sock)},
		agent.Tunnel{ID: "secure", Kind: dialect.HTTP, Upstream: trusted},
		agent.Tunnel{ID: "untrusted", Kind: dialect.HTTP, Upstream: untrusted},
		agent.Tunnel{ID: "closed", Kind: dialect.HTTP, Upstream: upstream(t, closed)},
		agent.Tunnel{ID: "nosocket", Kind: dialect.HTTP, Upstream: upstream(t, "unix:"+sock+".not")},
		agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))},
		agent.Tunnel{ID: "closedtcp", Kind: dialect.TCP, Upstream: upstream(t, closed)},
	))
	s := r.until(agent.Connected)
	if len(s.Bound) != 8 {
		t.Fatalf("%d tunnels are bound, want 8", len(s.Bound))
	}
	for i, id := range []string{"plain", "unix", "secure"} {
		f.want("/"+id+"/a/b", "you asked for /")
		if want := "http://" + f.addr + "/" + id + "/"; len(s.Bound[i].URLs) == 0 || s.Bound[i].URLs[0] != want {
			t.Errorf("%s is bound at %q, want %s", id, s.Bound[i].URLs, want)
		}
	}
	for _, id := range []string{"untrusted", "closed", "nosocket"} {
		if status, code, body := f.get("/" + id + "/"); status != 502 || code != "upstream-refused" || strings.Contains(body, "127.0.0.1") {
			t.Errorf("GET /%s/: %d %s, %q; want 502 upstream-refused, and no address", id, status, code, body)
		}
	}
	c := f.visit(s.Bound[6].Port)
	echo(t, c, "hello")
	c.CloseWrite()
	if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
		t.Errorf("after half-close: %q, %v; want the end", b, err)
	}
	f.wantReset(s.Bound[7].Port)
}

// TestCarrierLost breaks the carrier under open streams: they go on.
func TestCarrierLost(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	opts := f.options(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))})
	opts.Carrier = native.WebSocket // others would not notice
	r := run(t, opts)
	s := r.until(agent.Connected)
	c := f.visit(s.Bound[0].Port)
	for i := range 5 {
		echo(t, c, fmt.Sprint("message ", i))
		f.cut()
		if s := r.until(agent.Reconnecting); s.Err == nil {
			t.Error("Reconnecting without an error")
		}
		again := r.until(agent.Connected)
		if len(again.Bound) != 1 || again.Bound[0].Port != s.Bound[0].Port {
			t.Errorf("bound at %+v after resuming, want %+v", again.Bound, s.Bound)
		}
	}
	echo(t, c, "still here")
}

// TestServerRestart stops the server and starts another at its address: the
// agent comes back by itself, at the same public port.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	defer func() { f.stop() }() // ends streams that wait for their next request
	opts := f.options(
		agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: upstream(t, webUpstream(t).URL)},
		agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))},
	)
	r := run(t, opts)
	port := r.until(agent.Connected).Bound[1].Port
	for range 2 {
		f.stop()
		r.until(agent.Reconnecting)
		f.start()
		if got := r.until(agent.Connected).Bound[1].Port; got != port {
			t.Errorf("port %d after a restart, want %d as before", got, port)
		}
		f.want("/web/", "you asked for")
		f.hello(port)
	}

	// When it is taken, another one has to do.
	f.stop()
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f.start()
	got := r.until(agent.Connected).Bound[1].Port
	if got == port || got == 0 {
		t.Errorf("port %d, which is taken; want another", got)
	}
	f.hello(got)
}

// TestFixedPortTaken asks for one port and no other: that it is taken may pass,
// so it is tried again.
func TestFixedPortTaken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", f.ports.First))
	if err != nil {
		t.Skipf("port of the test is taken: %v", err)
	}
	r := run(t, f.options(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Port: f.ports.First, Upstream: upstream(t, echoUpstream(t))}))
	var be *dialect.BindError
	if s := r.until(agent.Refused); !errors.As(s.Err, &be) || be.Code != dialect.BindPortInUse || s.Wait <= 0 {
		t.Errorf("refused with %v, next attempt in %v; want port-in-use and a wait", s.Err, s.Wait)
	}
	ln.Close()
	if got := r.until(agent.Connected).Bound[0].Port; got != f.ports.First {
		t.Errorf("port %d, want %d", got, f.ports.First)
	}
}

// TestSuperseded starts an agent that is the same as one that runs.
func TestSuperseded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	defer func() { f.stop() }() // ends streams that wait for their next request
	opts := f.options(agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: upstream(t, webUpstream(t).URL)})
	old := run(t, opts)
	old.until(agent.Connected)
	again := run(t, opts)
	again.until(agent.Connected)
	if err := old.end(); !errors.Is(err, agent.ErrSuperseded) {
		t.Errorf("Run of the older one: %v, want ErrSuperseded", err)
	}
	f.want("/web/", "you asked for")

	// Another instance shares the name instead.
	opts.Instance = "another"
	other := run(t, opts)
	other.until(agent.Connected)
	f.want("/web/", "you asked for")
	select {
	case err := <-again.done:
		t.Errorf("Run beside another instance: %v, want it to go on", err)
	default:
	}
}

// token mints a token for f's secret.
func (f *fixture) token(expires time.Duration, scope auth.Scope) string {
	f.t.Helper()
	token, err := auth.Mint(f.secret, auth.TokenClaims{Subject: "alice", Expires: time.Now().Add(expires), Scope: scope})
	if err != nil {
		f.t.Fatal(err)
	}
	return token
}

func TestForbidden(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	scope := auth.Scope{IDs: []string{"mine-*"}}
	for name, tun := range map[string]agent.Tunnel{
		"id of somebody else": {ID: "yours", Kind: dialect.HTTP, Upstream: upstream(t, "80")},
		"port out of scope":   {ID: "mine-1", Kind: dialect.TCP, Port: f.ports.First, Upstream: upstream(t, "80")},
	} {
		opts := f.options(agent.Tunnel{ID: "mine-0", Kind: dialect.HTTP, Upstream: upstream(t, "80")}, tun)
		opts.Token = func() (string, error) { return f.token(time.Hour, scope), nil }
		r := run(t, opts)
		err := r.end()
		var be *dialect.BindError
		if !errors.As(err, &be) || be.Code != dialect.BindForbidden || !strings.Contains(err.Error(), string(tun.ID)) {
			t.Errorf("%s: Run: %v, want a BindError with forbidden that names %s", name, err, tun.ID)
		}
	}
}

// TestCredentialRefused starts with a credential that the server does not know,
// which may be mended while the agent runs.
func TestCredentialRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	defer func() { f.stop() }() // ends streams that wait for their next request
	opts := f.options(agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: upstream(t, webUpstream(t).URL)})
	var right atomic.Bool
	opts.Token = func() (string, error) {
		if right.Load() {
			return f.secret.Reveal(), nil
		}
		return "wrong-credential-0123456789", nil
	}
	r := run(t, opts)
	for range 2 {
		s := r.until(agent.Refused)
		if s.Err == nil || !strings.Contains(s.Err.Error(), "invalid-credential") || strings.Contains(s.Err.Error(), "wrong-credential") || s.Wait <= 0 {
			t.Errorf("refused with %v, next attempt in %v; want invalid-credential, a wait, and not the credential itself", s.Err, s.Wait)
		}
	}
	right.Store(true)
	r.until(agent.Connected)
	f.want("/web/", "you asked for")
}

// TestCredentialExpires has the session end with its credential: the agent comes
// back with a new one.
func TestCredentialExpires(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	defer func() { f.stop() }() // ends streams that wait for their next request
	opts := f.options(agent.Tunnel{ID: "mine-0", Kind: dialect.HTTP, Upstream: upstream(t, webUpstream(t).URL)})
	scope := auth.Scope{IDs: []string{"mine-*"}}
	short := f.token(-28*time.Second, scope) // the server allows for 30 s between clocks
	var renewed atomic.Bool
	opts.Token = func() (string, error) {
		if renewed.Load() {
			return f.token(time.Hour, scope), nil
		}
		return short, nil
	}
	r := run(t, opts)
	r.until(agent.Connected)
	if s := r.until(agent.Refused); !strings.Contains(s.Err.Error(), "expired") {
		t.Errorf("refused with %v, want that the credential expired", s.Err)
	}
	renewed.Store(true)
	r.until(agent.Connected)
	f.want("/mine-0/", "you asked for")
}

// TestDrain lets a server drain while a stream is open: the agent goes to the
// next server, and the stream goes on at the old one.
func TestDrain(t *testing.T) {
	t.Parallel()
	f, next := newFixture(t), newFixture(t)
	next.secret = f.secret
	next.stop()
	next.start()
	r := run(t, f.options(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))}))
	s := r.until(agent.Connected)
	c := f.visit(s.Bound[0].Port)
	echo(t, c, "before")

	f.mu.Lock()
	f.dial = next.addr
	f.mu.Unlock()
	f.drain()
	s = r.until(agent.Connected)
	if len(s.Bound) != 1 || s.Bound[0].Port < next.ports.First || s.Bound[0].Port > next.ports.Last {
		t.Fatalf("bound at %+v, want a port of the next server, %v", s.Bound, next.ports)
	}
	next.hello(s.Bound[0].Port)
	echo(t, c, "still at the old one")

	// The old session survives its carrier, and says nothing of it.
	c.CloseWrite()
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("end of the old stream: %v", err)
	}
	f.stop()
	next.hello(s.Bound[0].Port)
	for {
		select {
		case s := <-r.states:
			t.Errorf("state %+v, want none after the agent has moved", s)
			continue
		default:
		}
		break
	}
}

// TestEndFinishesStreams ends an agent with an open stream: that has a few
// seconds, and new visitors are not sent to it any more.
func TestEndFinishesStreams(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	entered, release := make(chan struct{}), make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		w.Header().Set("Connection", "close")
		io.WriteString(w, "slow answer")
	}))
	defer up.Close()
	r := run(t, f.options(agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: upstream(t, up.URL)}))
	r.until(agent.Connected)
	f.endDuring(t, r, "/web/", entered, release)
}

// endDuring asks for a page, ends the agent once that is entered, and wants the
// agent to stay until it is released and "slow answer" has come.
func (f *fixture) endDuring(t *testing.T, r *running, path string, entered <-chan struct{}, release chan<- struct{}) {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		_, _, body := f.get(path)
		got <- body
	}()
	<-entered
	r.cancel()
	select {
	case err := <-r.done:
		t.Fatalf("Run: %v, with a request under way", err)
	case <-time.After(300 * time.Millisecond):
	}
	close(release)
	if body := <-got; body != "slow answer" {
		t.Errorf("answer %q, want the slow one", body)
	}
	if err := r.end(); err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
}

// TestEndCutsStreams ends an agent whose stream does not end.
func TestEndCutsStreams(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for the limit of 5 s")
	}
	f := newFixture(t)
	r := run(t, f.options(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))}))
	s := r.until(agent.Connected)
	c := f.visit(s.Bound[0].Port)
	echo(t, c, "hello")
	begin := time.Now()
	r.cancel()
	if err := r.end(); err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
	if took := time.Since(begin); took < 4*time.Second || took > 8*time.Second {
		t.Errorf("Run ends after %v, want about 5s", took)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("visitor reads bytes after the agent has ended")
	}
}

// TestNoServer has nobody listen: the agent tries again, and ends with its ctx.
func TestNoServer(t *testing.T) {
	t.Parallel()
	opts := agent.Options{
		Server:  "ws://127.0.0.1:1",
		Tunnels: []agent.Tunnel{{ID: "web", Kind: dialect.HTTP, Upstream: upstream(t, "80")}},
	}
	r := run(t, opts)
	if s := r.until(agent.Connecting); s.Err != nil {
		t.Errorf("Connecting with %v", s.Err)
	}
	for range 2 {
		if s := r.until(agent.Reconnecting); s.Err == nil || s.Wait <= 0 {
			t.Errorf("Reconnecting with %v, next attempt in %v; want an error and a wait", s.Err, s.Wait)
		}
	}
	r.cancel()
	if err := r.end(); err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	up := upstream(t, "80")
	good := agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: up}
	for name, tt := range map[string]struct {
		opts agent.Options
		want string
	}{
		"no tunnels":    {agent.Options{Server: "ws://x"}, "no tunnels"},
		"malformed id":  {agent.Options{Server: "ws://x", Tunnels: []agent.Tunnel{{ID: "Web", Upstream: up}}}, "tunnel 1"},
		"no upstream":   {agent.Options{Server: "ws://x", Tunnels: []agent.Tunnel{good, {ID: "b"}}}, `"b" has no upstream`},
		"no server":     {agent.Options{Tunnels: []agent.Tunnel{good}}, "server URL"},
		"scheme of ftp": {agent.Options{Server: "ftp://x", Tunnels: []agent.Tunnel{good}}, "ftp"},
	} {
		if err := agent.Run(context.Background(), tt.opts); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Run: %v, want an error with %q", name, err, tt.want)
		}
	}
}

// Streams that are open when Run is to end have the time that they were given,
// and no more once they are cut.
func TestGraceAndCut(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cut := make(chan struct{})
	opts := f.options(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))})
	opts.Grace, opts.Cut = time.Hour, cut
	r := run(t, opts)
	c := f.visit(r.until(agent.Connected).Bound[0].Port)
	echo(t, c, "before")
	r.cancel()
	r.until(agent.Stopping)
	echo(t, c, "after")
	close(cut)
	if err := r.end(); err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the visitor's conn lives on")
	}
}
