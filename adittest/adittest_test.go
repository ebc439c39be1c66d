package adittest_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"adit"
	"adit/adittest"
	"adit/auth"
	"adit/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve lets l answer with text.
func serve(t *testing.T, l net.Listener, text string) {
	t.Helper()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) })}
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(l)
	}()
	t.Cleanup(func() { srv.Close(); <-served })
}

func get(t *testing.T, srv *adittest.Server, url string) string {
	t.Helper()
	resp, err := srv.Client().Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(resp.StatusCode, " ", string(b))
}

func TestServer(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("web"))
	serve(t, l, "hello")
	if got := get(t, srv, l.URL()); got != "200 hello" {
		t.Errorf("got %s, want 200 hello", got)
	}
	srv.Cut()
	if got := get(t, srv, l.URL()); got != "200 hello" {
		t.Errorf("after Cut: got %s, want 200 hello", got)
	}
	srv.Restart()
	if got := get(t, srv, l.URL()); got != "200 hello" {
		t.Errorf("after Restart: got %s, want 200 hello", got)
	}
	addr := strings.TrimPrefix(srv.URL(), "http://")
	srv.Stop()
	srv.Stop()
	if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		c.Close()
		t.Error("it can be dialled after Stop")
	}
}

// In memory hours pass at once.
func TestMemoryServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := adittest.NewMemoryServer(t, func(o *server.Options) { o.Hold = 18 * time.Second }) // longer than programs wait
		l := srv.Listen(t, adit.WithID("web"))
		serve(t, l, "hello")
		if want := "http://web.adit.test/"; l.URL() != want {
			t.Errorf("URL: %s, want %s", l.URL(), want)
		}
		if got := get(t, srv, l.URL()); got != "200 hello" {
			t.Errorf("got %s, want 200 hello", got)
		}
		srv.Cut()
		if got := get(t, srv, l.URL()); got != "200 hello" {
			t.Errorf("after Cut: got %s, want 200 hello", got)
		}
		time.Sleep(time.Hour)
		if got := get(t, srv, l.URL()); got != "200 hello" {
			t.Errorf("an hour later: got %s, want 200 hello", got)
		}
		srv.Stop()
		time.Sleep(time.Hour)
		if s := l.Status(); s.State != adit.StateReconnecting || s.Wait > 15*time.Second {
			t.Errorf("an hour without the server: %v, want it to try again within 15s", s)
		}
		srv.Restart()
		if got := get(t, srv, l.URL()); got != "200 hello" {
			t.Errorf("after Restart: got %s, want 200 hello", got)
		}
		l.Close()
		l.Shutdown(t.Context())
		// The visitor waits for as long as the name is kept.
		if got := get(t, srv, l.URL()); !strings.HasPrefix(got, "503 ") && !strings.HasPrefix(got, "404 ") {
			t.Errorf("after Close: got %s, want 503 or 404", got)
		}
		if got := get(t, srv, "http://nobody.adit.test/"); !strings.HasPrefix(got, "404 ") {
			t.Errorf("a name that nobody has: got %s, want 404", got)
		}
	})
}

// Visitors in memory have addresses.
func TestMemoryVisitor(t *testing.T) {
	t.Parallel()
	srv := adittest.NewMemoryServer(t)
	l := srv.Listen(t, adit.WithID("web"))
	hs := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		io.WriteString(w, host)
	})}
	go hs.Serve(l)
	defer hs.Close()
	if got := get(t, srv, l.URL()); got != "200 192.0.2.1" {
		t.Errorf("got %s, want 200 192.0.2.1", got)
	}
}

func TestServerOptions(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t, func(o *server.Options) { o.Domain, o.PathMode = "tunnel.test", false })
	l := srv.Listen(t, adit.WithID("web"))
	serve(t, l, "hello")
	if !strings.HasPrefix(l.URL(), "http://web.tunnel.test:") {
		t.Errorf("URL: %s, want one below tunnel.test", l.URL())
	}
	if got := get(t, srv, l.URL()); got != "200 hello" {
		t.Errorf("got %s, want 200 hello", got)
	}
}

func TestTCP(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	first, last := srv.TCPPorts()
	tun := srv.Forward(t, strings.TrimPrefix(srv.URL(), "http://"), adit.WithID("self"), adit.WithTCP(last))
	if want := fmt.Sprintf("tcp://127.0.0.1:%d", last); tun.URL() != want || first > last {
		t.Errorf("URL: %s, want %s, and the first port not behind it: %d", tun.URL(), want, first)
	}
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", last))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	if b, _ := io.ReadAll(c); !strings.HasPrefix(string(b), "HTTP/1.") {
		t.Errorf("read %.50q, want an answer of the server itself", b)
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	token := srv.Token(auth.TokenClaims{Subject: "shop", Scope: auth.Scope{IDs: []string{"shop"}}})
	l := srv.Listen(t, adit.WithID("shop"), adit.WithToken(token))
	serve(t, l, "shop")
	if got := get(t, srv, l.URL()); got != "200 shop" {
		t.Errorf("got %s, want 200 shop", got)
	}
	if _, err := adit.Listen(t.Context(), srv.Options(), adit.WithID("web"), adit.WithToken(token)); err == nil {
		t.Error("the token allows an ID that it does not name")
	}
}
