package websocktunnel_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/auth"
	"adit/dialect"
	"adit/dialect/websocktunnel"
	"adit/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// everybody accepts every token but "wrong".
type everybody struct{}

func (everybody) Authenticate(_ context.Context, c auth.Claim) (*auth.Identity, error) {
	if c.Token == "wrong" {
		return nil, &auth.Error{Code: auth.InvalidCredential, Reason: "it is wrong"}
	}
	return &auth.Identity{Subject: "s"}, nil
}

// A fakeServer takes in agents and nothing else.
type fakeServer struct {
	*httptest.Server
	d       *websocktunnel.Dialect
	tunnels chan tunnel.Tunnel // of agents that were taken in
	errs    chan error         // of those that were not
	refuse  error              // what Registered is told
}

func newFakeServer(t testing.TB, secure bool, opts websocktunnel.Options) *fakeServer {
	if opts.Auth == nil {
		opts.Auth = everybody{}
	}
	fs := &fakeServer{
		d:       websocktunnel.New(opts),
		tunnels: make(chan tunnel.Tunnel, 100),
		errs:    make(chan error, 100),
	}
	fs.Server = httptest.NewUnstartedServer(http.HandlerFunc(fs.serve))
	fs.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		fs.StartTLS()
	} else {
		fs.Start()
	}
	t.Cleanup(func() {
		fs.Close()
		for len(fs.tunnels) > 0 {
			(<-fs.tunnels).Close()
		}
	})
	return fs
}

func (fs *fakeServer) serve(w http.ResponseWriter, r *http.Request) {
	if !fs.d.Match(r) {
		http.NotFound(w, r)
		return
	}
	t, err := fs.d.Accept(w, r, fs.d.Authenticate)
	if err != nil {
		fs.errs <- err
		return
	}
	t.(dialect.Registrant).Registered(dialect.Bound{URLs: []string{"http://example.com/" + string(t.ID()) + "/"}}, fs.refuse)
	if fs.refuse != nil {
		t.Close()
		return
	}
	fs.tunnels <- t
}

// next returns the tunnel of the next agent, which t closes.
func (fs *fakeServer) next(t testing.TB) tunnel.Tunnel {
	t.Helper()
	select {
	case tun := <-fs.tunnels:
		t.Cleanup(func() { tun.Close() })
		return tun
	case <-time.After(patience):
		t.Fatal("no agent came")
		panic("unreachable")
	}
}

// options are those of an agent of fs.
func (fs *fakeServer) options() websocktunnel.ListenOptions {
	opts := websocktunnel.ListenOptions{
		Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
			return websocktunnel.Config{ID: "demo", Server: fs.URL, Token: "token"}, nil
		},
		Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
		Retry: websocktunnel.Retry{Initial: 10 * time.Millisecond, Max: 100 * time.Millisecond, Total: patience},
	}
	if cert := fs.Certificate(); cert != nil {
		opts.TLS = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "example.com"}
		opts.TLS.RootCAs.AddCert(cert)
	}
	return opts
}

func listen(t testing.TB, opts websocktunnel.ListenOptions) *websocktunnel.Listener {
	t.Helper()
	l, err := websocktunnel.Listen(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// An answering is a Listener whose conns are answered by whoever accepts them.
type answering struct{ *websocktunnel.Listener }

func (a answering) Accept() (net.Conn, error) { return a.AcceptIncoming() }
