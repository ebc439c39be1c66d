package native_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/memnet"
	"adit/internal/testca"
	"adit/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for anything.
const patience = 20 * time.Second

// A fakeServer takes in agents.
type fakeServer struct {
	*native.Dialect
	url      string
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	tls      *tls.Config
	admit    dialect.AdmitFunc
	accepted chan accepted // one for each request
	later    sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // raw, of carriers
}

type accepted struct {
	t   tunnel.Tunnel
	err error
}

// admitAll takes the token for the subject; without one it refuses.
func admitAll(_ context.Context, c auth.Claim) (*auth.Identity, error) {
	if c.Token == "" {
		return nil, &auth.Error{Code: auth.MissingCredential, Reason: "no credential was sent"}
	}
	return &auth.Identity{Subject: c.Token, Scope: auth.Everything()}, nil
}

// A network is where a fakeServer listens.
type network string

const (
	tcp    network = "websocket over tcp"
	secure network = "websocket over tls"
	memory network = "websocket in memory"
)

func newFakeServer(t *testing.T, nw network, opts native.Options) *fakeServer {
	t.Helper()
	fs := &fakeServer{Dialect: native.New(opts), admit: admitAll, accepted: make(chan accepted, 100)}
	var ln net.Listener
	switch nw {
	case memory:
		ml := memnet.Listen("server")
		fs.url = "ws://server.test"
		fs.dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return ml.Dial(ctx) }
		ln = ml
	default:
		var err error
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		fs.url = "ws://" + ln.Addr().String()
		fs.dial = new(net.Dialer).DialContext
	}
	if nw == secure {
		fs.url = "wss" + fs.url[2:]
		config, roots := certificate(t)
		fs.tls = &tls.Config{RootCAs: roots}
		ln = tls.NewListener(ln, config)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := fs.Handler(r); h != nil {
			h.ServeHTTP(w, r)
			return
		}
		if !fs.Match(r) {
			http.NotFound(w, r)
			return
		}
		tun, err := fs.Accept(w, r, fs.admit)
		if later, ok := errors.AsType[*dialect.Continued](err); ok {
			fs.later.Go(func() {
				tun, err := later.Finish()
				fs.accepted <- accepted{tun, err}
			})
			return
		}
		fs.accepted <- accepted{tun, err}
	})}
	done := make(chan struct{})
	go func() { srv.Serve(ln); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done; fs.later.Wait() })
	return fs
}

// certificate is one for 127.0.0.1, made up for the test.
func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	ca := testca.New(t)
	return &tls.Config{
		Certificates: []tls.Certificate{ca.Issue(t, testca.Server("tunnel.test"))},
		ClientAuth:   tls.RequestClientCert,
	}, ca.Pool
}

// dialer returns a Dialer to fs, whose conns cut breaks.
func (fs *fakeServer) dialer(token string) *native.Dialer {
	return &native.Dialer{
		Server: fs.url,
		Token:  func() (string, error) { return token, nil },
		ID:     "web",
		TLS:    fs.tls,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := fs.dial(ctx, network, addr)
			if err == nil {
				fs.mu.Lock()
				defer fs.mu.Unlock()
				fs.conns = append(fs.conns, c)
			}
			return c, err
		},
	}
}

// cut breaks all carriers.
func (fs *fakeServer) cut() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, c := range fs.conns {
		c.Close()
	}
	fs.conns = nil
}

// next returns the outcome of the next request.
func (fs *fakeServer) next(t *testing.T) accepted {
	t.Helper()
	select {
	case a := <-fs.accepted:
		if a.t != nil {
			t.Cleanup(func() { a.t.Close() })
		}
		return a
	case <-time.After(patience):
		t.Fatal("no request has come")
		panic("unreachable")
	}
}

// start starts a session, and serves it until the test ends.
func (fs *fakeServer) start(t *testing.T, d *native.Dialer, opts native.SessionOptions) (tunnel.Tunnel, *native.Session) {
	t.Helper()
	tun, s := fs.connect(t, d, opts)
	serve(t, s)
	return tun, s
}

// connect starts a session, which has one carrier and gets no other by itself.
func (fs *fakeServer) connect(t *testing.T, d *native.Dialer, opts native.SessionOptions) (tunnel.Tunnel, *native.Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := native.Dial(ctx, d, opts)
	if err != nil {
		t.Fatal(err)
	}
	a := fs.next(t)
	for a.err != nil && d.Carrier == native.Auto { // of a carrier that did not work
		a = fs.next(t)
	}
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.t, s
}

// serve runs s.Serve until the test ends.
func serve(t *testing.T, s *native.Session) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		s.Close()
		if err := <-done; err == nil || errors.Is(err, dialect.ErrResumed) {
			t.Errorf("Serve: %v, want why it ended", err)
		}
	})
}
