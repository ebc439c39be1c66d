package server_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/testlog"
	"adit/internal/testtcp"
	"adit/server"
	"adit/session"
	"adit/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	domain   = "example.com"
	patience = 20 * time.Second // for what has to happen
)

// A fixture is a running server.
type fixture struct {
	*server.Server
	secret auth.Secret
	stop   func() error // ends Run and returns what it returned
	log    *testlog.Log
}

// options are those of a server on loopback that accepts secret.
func options(t *testing.T, log io.Writer, secrets ...auth.Secret) server.Options {
	t.Helper()
	a, err := auth.NewAuthenticator(auth.Options{Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return server.Options{
		Listen:   "127.0.0.1:0",
		Domain:   domain,
		PathMode: true,
		Hold:     5 * time.Second,
		Grace:    5 * time.Second,
		Dialects: []dialect.Dialect{native.New(native.Options{Logger: logger})},
		Auth:     a,
		Logger:   logger,
	}
}

// start runs a server with the usual options, which change may change.
func start(t *testing.T, change func(*server.Options)) *fixture {
	t.Helper()
	f := &fixture{secret: auth.NewSecret(), log: &testlog.Log{}}
	opts := options(t, f.log, f.secret)
	if change != nil {
		change(&opts)
	}
	s, err := server.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	f.Server = s
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Run(ctx) }()
	f.stop = sync.OnceValue(func() error {
		cancel()
		return <-served
	})
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if t.Failed() {
			t.Logf("the server logged:\n%s", f.log)
		}
	})
	return f
}

// mint returns a token of the server.
func (f *fixture) mint(t *testing.T, c auth.TokenClaims) string {
	t.Helper()
	if c.Expires.IsZero() {
		c.Expires = time.Now().Add(time.Hour)
	}
	token, err := auth.Mint(f.secret, c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// A runningAgent is an agent of a fixture.
type runningAgent struct {
	states chan agent.State
	over   chan struct{} // closed when it has ended
	stop   func() error  // ends it in an orderly way
	kill   func()        // cuts it off at once, and for good
}

// agent starts an agent; change may change its options.
func (f *fixture) agent(t *testing.T, change func(*agent.Options), tunnels ...agent.Tunnel) *runningAgent {
	t.Helper()
	a := &runningAgent{states: make(chan agent.State, 1000), over: make(chan struct{})}
	way := newWay()
	opts := agent.Options{
		Server:      "ws://" + f.Addr().String(),
		Token:       func() (string, error) { return f.secret.Reveal(), nil },
		Tunnels:     tunnels,
		DialContext: way.dial,
		OnState: func(s agent.State) {
			select {
			case a.states <- s:
			default:
			}
		},
	}
	if change != nil {
		change(&opts)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended error
	go func() {
		defer close(a.over)
		ended = agent.Run(ctx, opts)
	}()
	a.stop = func() error {
		cancel()
		<-a.over
		return ended
	}
	a.kill = way.cut
	t.Cleanup(func() {
		f.stop() // else the agent gives idle streams some seconds to finish
		a.stop()
	})
	return a
}

// up waits until the agent is connected.
func (a *runningAgent) up(t *testing.T) []dialect.Bound {
	t.Helper()
	return a.phase(t, agent.Connected).Bound
}

// phase waits for a state.
func (a *runningAgent) phase(t *testing.T, want agent.Phase) agent.State {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	var last agent.State
	for {
		select {
		case last = <-a.states:
			if last.Phase == want {
				return last
			}
		case <-limit.C:
			t.Fatalf("the agent is not %s after %v; the last it said was %+v", want, patience, last)
		}
	}
}

// A way out to the server that can be cut.
type way struct {
	mu    sync.Mutex
	conns []net.Conn
	over  bool
}

func newWay() *way { return &way{} }

func (w *way) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		c.Close()
		return nil, errors.New("the way is cut")
	}
	w.conns = append(w.conns, c)
	return c, nil
}

func (w *way) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	for _, c := range w.conns {
		c.Close()
	}
}

// httpTunnel is a tunnel to an upstream.
func httpTunnel(t *testing.T, id tunnel.ID, up string) agent.Tunnel {
	t.Helper()
	return newTunnel(t, agent.Tunnel{ID: id, Kind: dialect.HTTP}, up)
}

func tcpTunnel(t *testing.T, id tunnel.ID, port uint16, up string) agent.Tunnel {
	t.Helper()
	return newTunnel(t, agent.Tunnel{ID: id, Kind: dialect.TCP, Port: port}, up)
}

func newTunnel(t *testing.T, tun agent.Tunnel, up string) agent.Tunnel {
	t.Helper()
	var err error
	if tun.Upstream, err = agent.ParseUpstream(up); err != nil {
		t.Fatal(err)
	}
	return tun
}

// upstream serves h and returns its address.
func upstream(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// saying is an upstream that answers with text.
func saying(t *testing.T, text string) string {
	t.Helper()
	return upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text+" "+r.URL.Path) })
}

// echo is a TCP upstream that sends back what it gets, behind a greeting.
func echo(t *testing.T, greeting string) string {
	return testtcp.Serve(t, func(c net.Conn) {
		io.WriteString(c, greeting)
		testtcp.Echo(c)
	})
}

// visitor returns a client for which every name is the server.
func (f *fixture) visitor(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, f.Addr().String())
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// get returns the status and the body of a page of host.
func (f *fixture) get(t *testing.T, c *http.Client, host, path string) (status int, body string) {
	t.Helper()
	resp, err := c.Get("http://" + host + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// dialTCP connects to a public port and returns the first n bytes from there.
func dialTCP(t *testing.T, port uint16, n int) string {
	t.Helper()
	c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("port %d: got %q, %v, want a greeting", port, got, err)
	}
	return string(got)
}

// dialSession starts a session of its own, without package agent.
func (f *fixture) dialSession(t *testing.T, token string) (*native.Session, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d := &native.Dialer{Server: "ws://" + f.Addr().String(), Token: func() (string, error) { return token, nil }}
	s, err := native.Dial(ctx, d, native.SessionOptions{Session: session.Options{ResumeWindow: -1}})
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

// logs waits until the server has logged a message.
func (f *fixture) logs(t *testing.T, msg string) {
	t.Helper()
	f.log.Await(t, `"msg":"`+msg+`"`)
}

// ended waits until the agent has ended by itself, and returns why.
func (a *runningAgent) ended(t *testing.T) error {
	t.Helper()
	select {
	case <-a.over:
		return a.stop()
	case <-time.After(patience):
		t.Fatalf("the agent still runs after %v", patience)
		return nil
	}
}
