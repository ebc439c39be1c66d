package adit_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"adit"
	"adit/adittest"
	"adit/internal/testtcp"
)

func TestForward(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	up := httptest.NewServer(http.HandlerFunc(hello))
	defer up.Close()
	tun := srv.Forward(t, up.URL, adit.WithID("web"))
	if want := srv.URL() + "/web/"; tun.URL() != want || tun.URLs()[0] != want {
		t.Errorf("URL: %s, want %s", tun.URL(), want)
	}
	if status, _, body := get(t, srv, tun.URL()+"page"); status != 200 || body != "hello from /page" {
		t.Errorf("GET: %d %q", status, body)
	}
	up.Close()
	if status, code, _ := get(t, srv, tun.URL()); status != 502 || code != "upstream-refused" {
		t.Errorf("GET without the upstream: %d %s, want 502 upstream-refused", status, code)
	}
	if s := tun.Status(); s.State != adit.StateConnected {
		t.Errorf("Status: %v", s)
	}
	if err := tun.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := wait(t, tun); err != nil {
		t.Errorf("Wait after Close: %v, want nil", err)
	}
	if err := tun.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// echoUpstream sends back what it gets.
func echoUpstream(t *testing.T) string { return testtcp.Serve(t, testtcp.Echo) }

func TestForwardShutdown(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	tun := srv.Forward(t, echoUpstream(t), adit.WithID("echo"), adit.WithTCP(0))
	visitor := visit(t, tun.URL())
	pass(t, visitor, visitor, "hello")
	shut := make(chan error, 1)
	go func() { shut <- tun.Shutdown(briefly(t)) }()
	pass(t, visitor, visitor, "still there")
	visitor.CloseWrite()
	if b, err := io.ReadAll(visitor); len(b) > 0 || err != nil {
		t.Errorf("read %q, %v; want the end", b, err)
	}
	if err := <-shut; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// Close waits for nobody.
func TestForwardClose(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	tun := srv.Forward(t, echoUpstream(t), adit.WithID("echo"), adit.WithTCP(0))
	visitor := visit(t, tun.URL())
	pass(t, visitor, visitor, "hello")
	tun.Close()
	if n, err := visitor.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("Read of the visitor: %d, %v; want the end or an error", n, err)
	}
	if err := tun.Shutdown(briefly(t)); err != nil {
		t.Errorf("Shutdown after Close: %v", err)
	}
}
