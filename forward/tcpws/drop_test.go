package tcpws

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A logged collects lines.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func newLogged() *logged { return &logged{more: make(chan struct{}, 100)} }

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
	return l.text.Write(b)
}

// await returns what was written once that has text.
func (l *logged) await(t *testing.T, text string) string {
	t.Helper()
	late := time.After(patience)
	for {
		l.mu.Lock()
		all := l.text.String()
		l.mu.Unlock()
		if strings.Contains(all, text) {
			return all
		}
		select {
		case <-l.more:
		case <-late:
			t.Fatalf("%q is not in the log:\n%s", text, all)
		}
	}
}

// The original rides out a network that is frozen for 75 s.
func TestFrozenNetwork(t *testing.T) {
	t.Parallel()
	k := tcpKeepAlive
	if got := k.Idle + time.Duration(k.Count)*k.Interval; got < 150*time.Second {
		t.Errorf("a connection is given up after %v without an answer, want it kept as long as the original keeps it", got)
	}
}

func TestLogOfRedirects(t *testing.T) {
	t.Parallel()
	at := running(t, func(ctx context.Context, l net.Listener) error {
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				http.Redirect(w, r, "/there", http.StatusMovedPermanently)
				return
			}
			http.Error(w, "no", http.StatusForbidden)
		})}
		stop := context.AfterFunc(ctx, func() { srv.Close() })
		defer stop()
		srv.Serve(l)
		return nil
	})
	lines := newLogged()
	c, err := net.Dial("tcp", running(t, NewClient(ClientOptions{URL: "http://" + at, Log: log.New(lines, "", 0)}).Serve))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	who := c.LocalAddr().String()
	got := lines.await(t, "403 Forbidden")
	want := fmt.Sprintf("%[1]s - Connecting to ws://%[2]s\n%[1]s - Redirect to ws://%[2]s/there\n%[1]s - Connecting to ws://%[2]s/there\n%[1]s - Error while dialing http://%[2]s: ", who, at)
	if !strings.HasPrefix(got, want) {
		t.Errorf("got the log\n%s\nwant\n%s", got, want)
	}
}

func TestNoPasswordInTheLog(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"ws://me:marked@127.0.0.1/", "ws://me:mar%zzmarked@127.0.0.1/", "me:marked@127.0.0.1", "ws://me:p@marked@h//x"} {
		lines := newLogged()
		c, err := net.Dial("tcp", running(t, NewClient(ClientOptions{URL: u, Log: log.New(lines, "", 0)}).Serve))
		if err == nil {
			defer c.Close()
		} else if !errors.Is(err, syscall.ECONNRESET) { // which it is if the refusal comes at once
			t.Fatal(err)
		}
		if got := lines.await(t, "Error while dialing"); strings.Contains(got, "marked") {
			t.Errorf("%s: the log has the password: %s", u, got)
		}
	}
}

// Whoever is refused and sends its body a byte at a time holds nothing for long.
func TestSlowBodyOfARefusedRequest(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	p.server.bodyTime = 50 * time.Millisecond
	c, err := net.Dial("tcp", strings.TrimPrefix(p.client.opts.URL, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nx")
	if _, err := io.Copy(io.Discard, bufio.NewReader(c)); err != nil {
		t.Errorf("the connection is still open: %v", err)
	}
}
