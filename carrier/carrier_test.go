package carrier_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"adit/carrier"
	"adit/internal/wsconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// acceptAll returns a handler that accepts with opts and hands the conns to the
// channel, which the test empties.
func acceptAll(t *testing.T, opts carrier.AcceptOptions) (http.Handler, <-chan *wsconn.Conn) {
	conns := make(chan *wsconn.Conn, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !carrier.IsUpgrade(r) {
			t.Errorf("IsUpgrade = false for %v", r.Header)
		}
		c, err := carrier.Accept(w, r, opts)
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		conns <- c
	}), conns
}

// exchange sends bytes both ways and closes both ends.
func exchange(t *testing.T, a, b *wsconn.Conn) {
	t.Helper()
	defer b.Close()
	for _, dir := range []struct{ from, to *wsconn.Conn }{{a, b}, {b, a}} {
		want := bytes.Repeat([]byte("adit"), 50000)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := dir.from.Write(want); err != nil {
				t.Error(err)
			}
		})
		got := make([]byte, len(want))
		if _, err := io.ReadFull(dir.to, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("bytes arrived damaged (%v)", err)
		}
		wg.Wait()
	}
	a.Close()
	if n, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read after Close at the other end = %d, %v; want EOF", n, err)
	}
}

func TestDialAccept(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, scheme, sub string
		tls, ipv6         bool
	}{
		{name: "ws", scheme: "ws", sub: "adit.v1"},
		{name: "http", scheme: "http"},
		{name: "wss", scheme: "wss", tls: true, sub: "adit.v1"},
		{name: "https", scheme: "https", tls: true},
		{name: "IPv6", scheme: "wss", tls: true, ipv6: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, conns := acceptAll(t, carrier.AcceptOptions{Subprotocol: tt.sub})
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if got, want := r.URL.RequestURI(), "/a%2Fb/c?q=%20"; got != want {
					t.Errorf("request for %q, want %q", got, want)
				}
				if got, want := r.Header.Get("Authorization"), "Bearer secret"; got != want {
					t.Errorf("Authorization %q, want %q", got, want)
				}
				if want := srv(r).Addr().String(); r.Host != want {
					t.Errorf("Host %q, want %q", r.Host, want)
				}
				h.ServeHTTP(w, r)
			}))
			if tt.ipv6 {
				ln, err := net.Listen("tcp", "[::1]:0")
				if err != nil {
					t.Skip("no IPv6 here")
				}
				srv.Listener.Close()
				srv.Listener = ln
			}
			var config *tls.Config
			if tt.tls {
				srv.EnableHTTP2 = true // Dial must not take it up
				srv.StartTLS()
				pool := x509.NewCertPool()
				pool.AddCert(srv.Certificate())
				config = &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}}
			} else {
				srv.Start()
			}
			defer srv.Close()
			d := carrier.Dialer{
				URL:         tt.scheme + "://" + srv.Listener.Addr().String() + "/a%2Fb/c?q=%20",
				Header:      http.Header{"Authorization": {"Bearer secret"}},
				TLS:         config,
				Subprotocol: tt.sub,
			}
			ctx, cancel := context.WithCancel(t.Context())
			a, err := d.Dial(ctx)
			if err != nil {
				t.Fatal(err)
			}
			cancel() // must not touch the conn
			defer a.Close()
			exchange(t, a, <-conns)
		})
	}
}

// srv returns the listener's address of the server that r came to.
func srv(r *http.Request) interface{ Addr() net.Addr } {
	return localAddr{r.Context().Value(http.LocalAddrContextKey).(net.Addr)}
}

type localAddr struct{ a net.Addr }

func (l localAddr) Addr() net.Addr { return l.a }
