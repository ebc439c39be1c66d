package adit_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net"
	"net/url"
	"testing"
	"time"

	"adit"
	"adit/adittest"
	"adit/internal/testca"
	"adit/server"
)

// A program may end the TLS of its visitors itself: the server passes it on
// unread, and says who they are and what they asked for.
func TestListenTLS(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t, func(o *server.Options) {
		o.Domain = "tunnel.test"
		o.TLS = &server.TLSOptions{Listen: "127.0.0.1:0"}
	})
	l := srv.Listen(t, adit.WithID("vault"), adit.WithTLS("vault.example.com"))
	if n := len(l.URLs()); n != 2 {
		t.Errorf("URLs: %s, want that of the hostname and that of the ID", l.URLs())
	}
	cert := testca.Sign(t, x509.Certificate{Subject: pkix.Name{CommonName: "vault"}, DNSNames: []string{"vault.example.com", "vault.tunnel.test"}}, nil)
	trust := x509.NewCertPool()
	trust.AddCert(cert.Leaf)
	for _, name := range []string{"vault.example.com", "vault.tunnel.test"} {
		u, err := url.Parse(l.URL())
		if err != nil {
			t.Fatal(err)
		}
		raw, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", u.Port()))
		if err != nil {
			t.Fatal(err)
		}
		raw.SetDeadline(time.Now().Add(patience))
		visitor := tls.Client(raw, &tls.Config{ServerName: name, RootCAs: trust})
		shaken := make(chan error, 1)
		go func() { shaken <- visitor.HandshakeContext(t.Context()) }()
		c := accept(t, l)
		if c.Host() != name || c.RemoteAddr().String() != raw.LocalAddr().String() {
			t.Errorf("Host %s, RemoteAddr %s; want %s, %s", c.Host(), c.RemoteAddr(), name, raw.LocalAddr())
		}
		inner := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
		written := make(chan error, 1)
		go func() {
			_, err := io.WriteString(inner, "a secret")
			inner.Close()
			written <- err
		}()
		if err := <-shaken; err != nil {
			t.Fatalf("%s: handshake: %v", name, err)
		}
		if b, err := io.ReadAll(visitor); string(b) != "a secret" || err != nil {
			t.Errorf("%s: read %q, %v; want a secret", name, b, err)
		}
		if err := <-written; err != nil {
			t.Errorf("%s: write: %v", name, err)
		}
		visitor.Close()
	}
}

// A server without a port for it says so.
func TestListenTLSRefused(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	_, err := adit.Listen(briefly(t), srv.Options(), adit.WithID("vault"), adit.WithTLS())
	wantRefused(t, err, "invalid")
}

// A hostname leads to a program as its ID does.
func TestListenHostname(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("shop"), adit.WithHostname("Shop.Example.com."))
	serve(t, l, hello)
	if status, _, body := get(t, srv, "http://shop.example.com/page"); status != 200 || body != "hello from /page" {
		t.Errorf("got %d %q", status, body)
	}
}
