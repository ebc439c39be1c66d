package agent_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"adit/agent"
	"adit/dialect"
)

// forwarded makes a request with this X-Forwarded-For on c, and returns the
// answer's body.
func forwarded(t *testing.T, c net.Conn, br *bufio.Reader, path, xff string) string {
	t.Helper()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: %s\r\n\r\n", path, xff)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The address of a request is the one that the server saw, whatever the visitor
// says.
func TestHandlerSeesVisitor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	up := agent.HandlerUpstream("who", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.RemoteAddr)
	}))
	r := run(t, f.options(
		agent.Tunnel{ID: "who", Kind: dialect.HTTP, Upstream: up},
		agent.Tunnel{ID: "raw", Kind: dialect.TCP, Upstream: up},
	))
	s := r.until(agent.Connected)
	web, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	br := bufio.NewReader(web)
	for range 2 { // the second time on the same stream
		if got := forwarded(t, web, br, "/who/", "203.0.113.9"); got != "127.0.0.1:0" {
			t.Errorf("RemoteAddr of an HTTP visitor: %q, want 127.0.0.1:0", got)
		}
	}
	raw := f.visit(s.Bound[1].Port)
	if got := forwarded(t, raw, bufio.NewReader(raw), "/", "203.0.113.9"); got != raw.LocalAddr().String() {
		t.Errorf("RemoteAddr of a TCP visitor: %q, want %s", got, raw.LocalAddr())
	}
}

// When the agent ends, a request that is being served may finish, and a new one
// is told where it stands.
func TestHandlerFinishes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	entered, release := make(chan struct{}), make(chan struct{})
	r := run(t, f.options(agent.Tunnel{ID: "app", Kind: dialect.HTTP, Upstream: agent.HandlerUpstream("app",
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-release
			io.WriteString(w, "slow answer")
		}))}))
	r.until(agent.Connected)
	f.endDuring(t, r, "/app/", entered, release)
}

// A visitor who leaves ends the context of its request.
func TestHandlerNoticesLeaving(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	entered, left := make(chan struct{}), make(chan struct{})
	r := run(t, f.options(agent.Tunnel{ID: "app", Kind: dialect.HTTP, Upstream: agent.HandlerUpstream("app",
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-r.Context().Done()
			close(left)
		}))}))
	r.until(agent.Connected)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+f.addr+"/app/", strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	go func() {
		<-entered
		cancel()
	}()
	if resp, err := tr.RoundTrip(req); err == nil {
		resp.Body.Close()
		t.Error("a request that was cancelled has an answer")
	}
	select {
	case <-left:
	case <-time.After(patience):
		t.Error("the handler does not notice")
	}
}
