package adit_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"adit"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/testca"
	"adit/server"
)

// A program may show a certificate instead of a token, to a server that is part
// of another program.
func TestCertificate(t *testing.T) {
	t.Setenv("ADIT_TOKEN", "")
	ca := testca.Sign(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	allows, err := url.Parse("adit:id:web")
	if err != nil {
		t.Fatal(err)
	}
	leaf := x509.Certificate{
		Subject: pkix.Name{CommonName: "web"}, URIs: []*url.URL{allows}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	mine := testca.Sign(t, leaf, &ca)
	file := filepath.Join(t.TempDir(), "authorities.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	agents, err := auth.NewAuthenticator(auth.Options{Authorities: file})
	if err != nil {
		t.Fatal(err)
	}
	tunnels, err := server.New(server.Options{PathMode: true, Dialects: []dialect.Dialect{native.New(native.Options{})}, Auth: agents, Grace: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- tunnels.Run(ctx) }()
	ts := httptest.NewUnstartedServer(tunnels)
	ts.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	ts.StartTLS()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
		ts.Close()
	})

	trust := x509.NewCertPool()
	trust.AddCert(ts.Certificate())
	with := func(certs ...tls.Certificate) adit.Option {
		return adit.Options(adit.WithServer(ts.URL), adit.WithTLSConfig(&tls.Config{RootCAs: trust, Certificates: certs}))
	}
	l, err := adit.Listen(briefly(t), with(mine), adit.WithID("web"))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, hello)
	resp, err := ts.Client().Get(l.URL() + "page")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "hello from /page" {
		t.Errorf("got %d %q", resp.StatusCode, b)
	}
	_, err = adit.Listen(briefly(t), with(mine), adit.WithID("shop"))
	wantRefused(t, err, "forbidden")
	_, err = adit.Listen(briefly(t), with(testca.Sign(t, leaf, nil)), adit.WithID("web"))
	wantRefused(t, err, "invalid-credential")
	l.Shutdown(cancelled())
}
