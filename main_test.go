package adit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit"
	"adit/adittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(withServer{m}) }

// withServer runs tests with a server that the environment leads to, for
// examples.
type withServer struct{ m *testing.M }

func (w withServer) Run() int {
	srv := adittest.Start()
	os.Setenv("ADIT_SERVER", srv.URL())
	os.Setenv("ADIT_TOKEN", srv.Secret())
	code := w.m.Run()
	srv.Close()
	return code
}

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

// events is where a test finds the events of a listener.
type events chan adit.Event

func newEvents() events { return make(events, 10_000) }

func (e events) option() adit.Option {
	return adit.WithEvents(func(ev adit.Event) { e <- ev })
}

// until waits for an event of this state.
func (e events) until(t *testing.T, state adit.State) adit.Event {
	t.Helper()
	timeout := time.After(patience)
	var last adit.Event
	for {
		select {
		case last = <-e:
			if last.State == state {
				return last
			}
		case <-timeout:
			t.Fatalf("not %s after %v; the last event was %v", state, patience, last)
		}
	}
}

// serve serves h on l until the test ends.
func serve(t *testing.T, l net.Listener, h http.HandlerFunc) *http.Server {
	t.Helper()
	srv := &http.Server{Handler: h}
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(l)
	}()
	t.Cleanup(func() { srv.Close(); <-served })
	return srv
}

// hello answers with the path.
func hello(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %s", r.URL.Path) }

// get returns what a visitor gets.
func get(t *testing.T, srv *adittest.Server, url string) (status int, code, body string) {
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
	return resp.StatusCode, resp.Header.Get("Adit-Error"), string(b)
}

// visit connects to the public TCP port of an address.
func visit(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// accept returns the next conn of l.
func accept(t *testing.T, l *adit.Listener) *adit.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c.(*adit.Conn)
}

// pass sends s from one conn to the other.
func pass(t *testing.T, from, to net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(from, s); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(s))
	if _, err := io.ReadFull(to, b); err != nil || string(b) != s {
		t.Fatalf("sent %q, received %q, %v", s, b, err)
	}
}

// wait waits for the end of a Listener or Tunnel and returns what it ended with.
func wait(t *testing.T, l interface {
	Done() <-chan struct{}
	Wait() error
}) error {
	t.Helper()
	select {
	case <-l.Done():
		return l.Wait()
	case <-time.After(patience):
		t.Fatalf("it has not ended after %v", patience)
		panic("unreachable")
	}
}

// briefly returns a context for what must not take long.
func briefly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// wantRefused checks that err is a refusal with this code.
func wantRefused(t *testing.T, err error, code string) {
	t.Helper()
	re, ok := errors.AsType[*adit.RefusedError](err)
	if !ok || re.Code != code || re.Reason == "" || !errors.Is(err, adit.ErrRefused) {
		t.Errorf("got %v, want a RefusedError with code %q and a reason", err, code)
	}
}
