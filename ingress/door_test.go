package ingress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"adit/internal/certs"
	"adit/internal/testca"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// names is a TLSRouter with a fixed table.
type names map[string]Target

func (n names) Route(_ context.Context, key string) (Target, error) {
	if to, ok := n[key]; ok && to.Tunnel != nil {
		return to, nil
	} else if ok {
		return Target{}, fmt.Errorf("route %q: %w", key, ErrOffline)
	}
	return Target{}, fmt.Errorf("route %q: %w", key, ErrNoRoute)
}

func (n names) TLS(_ context.Context, name string) bool { return n[name].TLS }

// A door is a TLS ingress with the HTTP ingress behind it.
type door struct {
	t     testing.TB
	tls   *TLS
	http  *HTTP
	addr  string
	roots *x509.CertPool
	stop  func() // Serve returns
}

// newCertificates returns certificates of an authority of its own.
func newCertificates(t testing.TB, hostnames ...string) (*certs.Files, *x509.CertPool) {
	t.Helper()
	ca := testca.New(t)
	cert, key := ca.Files(t, testca.Server(hostnames...))
	files, err := certs.Open([]certs.Pair{{Cert: cert, Key: key}}, certs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return files, ca.Pool
}

// openDoor runs both ingresses on loopback, with certificates for example.com
// and the names below it.
func openDoor(t testing.TB, n names, change func(*TLSOptions, *HTTPOptions)) *door {
	t.Helper()
	files, roots := newCertificates(t, "example.com", "*.example.com")
	ho := HTTPOptions{Router: n, Covers: files.Covers, Domain: "example.com", PathMode: true}
	to := TLSOptions{Router: n, Certificates: files}
	if change != nil {
		change(&to, &ho)
	}
	d := &door{t: t, http: NewHTTP(ho), roots: roots}
	to.HTTP = d.http
	d.tls = NewTLS(to)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- d.tls.Serve(context.Background(), l) }()
	d.stop = sync.OnceFunc(func() {
		d.tls.Close()
		d.http.Close()
		if err := <-done; err != http.ErrServerClosed {
			t.Errorf("Serve: %v, want http.ErrServerClosed", err)
		}
		// Package net/http lets a conn of HTTP/2 that broke a rule linger.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := d.http.await(ctx, func() bool { return d.http.count == 0 }); err != nil {
			t.Errorf("visitors are left: %v", err)
		}
	})
	t.Cleanup(d.stop)
	return d
}

// config is how a visitor asks for name.
func (d *door) config(name string, protocols ...string) *tls.Config {
	return &tls.Config{ServerName: name, RootCAs: d.roots, NextProtos: protocols, InsecureSkipVerify: name == ""}
}

// dial does a handshake.
func (d *door) dial(config *tls.Config) *rawConn {
	d.t.Helper()
	c := dial(d.t, d.addr)
	tc := tls.Client(c.Conn, config)
	if err := tc.HandshakeContext(d.t.Context()); err != nil {
		d.t.Fatalf("handshake for %q: %v", config.ServerName, err)
	}
	return &rawConn{tc, d.t, bufio.NewReader(tc)}
}

// visitor is a client for which every name is the door.
func (d *door) visitor(config *tls.Config, protocols ...string) *http.Client {
	d.t.Helper()
	if config == nil {
		config = &tls.Config{RootCAs: d.roots}
	}
	tr := &http.Transport{
		TLSClientConfig: config,
		Protocols:       new(http.Protocols),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, d.addr)
		},
	}
	for _, p := range protocols {
		switch p {
		case "h2":
			tr.Protocols.SetHTTP2(true)
		case "http/1.1":
			tr.Protocols.SetHTTP1(true)
		case "h2c":
			tr.Protocols.SetUnencryptedHTTP2(true)
		}
	}
	d.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// echoSite answers with what it was told of the visitor.
func echoSite(t testing.TB) *tunneltest.Memory {
	return startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s|", r.Method, r.Host, r.RequestURI, b)
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"} {
			fmt.Fprintf(w, "%s|", strings.Join(r.Header[name], "#"))
		}
	}))
}

// acceptTLS answers a stream as an upstream that ends TLS.
func acceptTLS(t testing.TB, l net.Listener, config *tls.Config) (*tls.Conn, tunnel.StreamInfo) {
	t.Helper()
	s := acceptStream(t, l)
	c := tls.Server(s, config)
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatalf("handshake at the upstream: %v", err)
	}
	return c, s.(tunnel.Incoming).Info()
}

// A slowConn writes single bytes.
type slowConn struct{ net.Conn }

func (c slowConn) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// helloOf returns the first message of a visitor.
func helloOf(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go tls.Client(near, config).HandshakeContext(t.Context())
	b := make([]byte, 32<<10)
	n, err := far.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}
