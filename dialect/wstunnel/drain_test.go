package wstunnel

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// A server that is told to end takes no more connections, ends those on which
// nothing is due, and answers what it was asked.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := NewServer(ServerOptions{Grace: time.Minute})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	addr := l.Addr().String()

	arrived, release := make(chan struct{}, 2), make(chan struct{})
	local := startLocal(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
		fmt.Fprint(w, "answer")
	})
	startClient(t, ClientOptions{Tunnel: "ws://" + addr, Token: testToken, Server: local.URL})
	waitFor(t, "the client", func() bool {
		code, _ := askWith(t, "GET", "http://"+addr+"/", "", http.Header{"X-Token": {testToken}})
		return code == 200
	})
	http.DefaultClient.CloseIdleConnections()
	dial := func(request string) (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(c, request)
		return c, bufio.NewReader(c)
	}
	answer := func(what string, r *bufio.Reader) *http.Response {
		t.Helper()
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got, err := io.ReadAll(resp.Body); string(got) != "answer" || err != nil {
			t.Errorf("%s: got %q, %v", what, got, err)
		}
		return resp
	}
	const fields = " HTTP/1.1\r\nHost: h\r\nX-Token: " + testToken + "\r\n"
	_, idle := dial("GET /" + fields + "\r\n")
	answer("the one that is idle", idle)
	slow := map[string]*bufio.Reader{}
	_, slow["plain"] = dial("GET /slow" + fields + "\r\n")
	_, slow["other"] = dial("POST /slow" + fields + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	for range slow {
		<-arrived
	}
	cancel()
	if _, err := idle.ReadByte(); err != io.EOF {
		t.Errorf("an idle connection: got %v, want its end", err)
	}
	waitFor(t, "that nobody listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	select {
	case <-served:
		t.Fatal("it has ended before its answers")
	default:
	}
	close(release)
	for what, r := range slow {
		if resp := answer(what, r); !resp.Close {
			t.Errorf("%s: the answer does not say that the connection ends", what)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%s: got %v, want the end", what, err)
		}
	}
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
}

// What is not answered in time does not hold the server up.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	var lines output
	s := NewServer(ServerOptions{Grace: 20 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&lines, nil))})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	addr := l.Addr().String()
	p, _ := dialPeer(t, addr, originalHandshake(testToken)) // which answers nothing
	defer p.close()
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\nX-Token: " + testToken + "\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nX-Token: " + testToken + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, request)
	}
	waitFor(t, "both requests", func() bool {
		tun, ok := s.Tunnel(testToken)
		if !ok {
			return false
		}
		_, _, _, pending := tun.counts()
		return pending == 2
	})
	cancel()
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits on")
	}
	if !strings.Contains(lines.String(), "requests are not answered") {
		t.Errorf("the log is %q, want a word of that", lines.String())
	}
}

// An output collects what is written to it.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
