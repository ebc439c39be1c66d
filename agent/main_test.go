package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/ingress"
	"adit/internal/testport"
	"adit/internal/testtcp"
	"adit/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for anything.
const patience = 20 * time.Second

// A fixture is a real server, which may be stopped and started again at the
// same address, for agents and visitors of one test.
type fixture struct {
	t       *testing.T
	secret  auth.Secret
	addr    string // after the first start
	ports   ingress.PortRange
	hold    time.Duration
	forward []auth.ForwardRule // of the server, from its next start
	stop    func()             // the server; returns when it is gone
	drain   func()             // begins to stop it

	mu    sync.Mutex
	conns []net.Conn // carriers that agents dialled
	dial  string     // where they are dialled
}

func newFixture(t *testing.T) *fixture {
	const ports = 8
	first := testport.Row(t, ports)
	f := &fixture{t: t, secret: auth.NewSecret(), addr: "127.0.0.1:0", ports: ingress.PortRange{First: first, Last: first + ports - 1}, hold: patience}
	f.start()
	return f
}

// start starts a server.
func (f *fixture) start() {
	f.t.Helper()
	a, err := auth.NewAuthenticator(auth.Options{Secrets: []auth.Secret{f.secret}})
	if err != nil {
		f.t.Fatal(err)
	}
	s, err := server.New(server.Options{
		Listen:   f.addr,
		PathMode: true,
		TCPPorts: []ingress.PortRange{f.ports},
		Hold:     f.hold,
		Dialects: []dialect.Dialect{native.New(native.Options{Forwards: 100})},
		Forward:  f.forward,
		Auth:     a,
		Grace:    patience,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	f.addr = s.Addr().String()
	f.drain = cancel
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("server: %v", err)
		}
	})
	f.t.Cleanup(f.stop)
	f.mu.Lock()
	f.dial = f.addr
	f.mu.Unlock()
}

// cut breaks all carriers.
func (f *fixture) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

// options are those of an agent of f with these tunnels.
func (f *fixture) options(tunnels ...agent.Tunnel) agent.Options {
	return agent.Options{
		Server:  "ws://" + f.addr,
		Token:   func() (string, error) { return f.secret.Reveal(), nil },
		Tunnels: tunnels,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			f.mu.Lock()
			addr := f.dial
			f.mu.Unlock()
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.conns = append(f.conns, c)
			}
			return c, err
		},
	}
}

// A running is an agent that runs.
type running struct {
	t      *testing.T
	agent  *agent.Agent // nil if the options are wrong
	states chan agent.State
	cancel context.CancelFunc
	done   chan error
}

// run runs an agent until the test ends.
func run(t *testing.T, opts agent.Options) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, states: make(chan agent.State, 10_000), cancel: cancel, done: make(chan error, 1)}
	opts.OnState = func(s agent.State) { r.states <- s }
	var err error
	r.agent, err = agent.New(opts)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err == nil {
			err = r.agent.Run(ctx)
		}
		r.done <- err
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return r
}

// until waits for a state of this phase.
func (r *running) until(phase agent.Phase) agent.State {
	r.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case s := <-r.states:
			if s.Phase == phase {
				return s
			}
		case err := <-r.done:
			r.t.Fatalf("Run: %v, want phase %s", err, phase)
		case <-timeout:
			r.t.Fatalf("not %s after %v", phase, patience)
		}
	}
}

// end waits until Run returns.
func (r *running) end() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		r.t.Fatalf("Run has not returned after %v", patience)
		panic("unreachable")
	}
}

func upstream(t *testing.T, s string) *agent.Upstream {
	t.Helper()
	u, err := agent.ParseUpstream(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// webUpstream answers each request with its path.
func webUpstream(t *testing.T) *httptest.Server {
	ts := httptest.NewServer(http.HandlerFunc(answerPath))
	t.Cleanup(ts.Close)
	return ts
}

func answerPath(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, "you asked for "+r.URL.Path)
}

// echoUpstream sends back what it gets, and ends when its far side does.
func echoUpstream(t *testing.T) string { return testtcp.Serve(t, testtcp.Echo) }

// get makes a request to the server.
func (f *fixture) get(path string) (status int, code, body string) {
	f.t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("http://" + f.addr + path)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Error(err)
	}
	return resp.StatusCode, resp.Header.Get("Adit-Error"), string(b)
}

// want checks the answer to a request.
func (f *fixture) want(path, body string) {
	f.t.Helper()
	if status, _, got := f.get(path); status != 200 || !strings.Contains(got, body) {
		f.t.Errorf("GET %s: %d, %.200q; want 200, %q", path, status, got, body)
	}
}

// visit connects to a public TCP port.
func (f *fixture) visit(port uint16) *net.TCPConn {
	f.t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		f.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	f.t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// wantReset visits, and wants a reset, which may be as early as in the dial.
func (f *fixture) wantReset(port uint16) {
	f.t.Helper()
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), patience)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		f.t.Errorf("visitor of an upstream that is down: got %v, want %v", err, syscall.ECONNRESET)
	}
}

// refusing returns an address at which nobody listens, nor will while the test
// runs: it is the near end of a conn.
func refusing(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

// echo sends s through c and back.
func echo(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(s))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != s {
		t.Fatalf("echo of %q: %q, %v", s, b, err)
	}
}

// hello visits an echo upstream and leaves again.
func (f *fixture) hello(port uint16) {
	f.t.Helper()
	c := f.visit(port)
	echo(f.t, c, "hello")
	c.CloseWrite()
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		f.t.Errorf("behind the echo: %q, %v; want the end", b, err)
	}
	c.Close()
}
