package requests_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/carrier/requests"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A tap is a way to a server that notes all requests.
type tap struct {
	*requests.Server
	http  *httptest.Server
	conns chan net.Conn

	mu    sync.Mutex
	heads []string // of requests, by kind of carrier of one test
}

func newTap(t *testing.T) *tap {
	tp := &tap{Server: requests.NewServer(requests.Options{}), conns: make(chan net.Conn, 1)}
	tp.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.OpensConn(r) {
			c, _, err := tp.Open(w, r)
			if err != nil {
				t.Errorf("Open: %v", err)
			}
			tp.conns <- c
			return
		}
		tp.mu.Lock()
		tp.heads = append(tp.heads, r.Header.Get(requests.Header))
		tp.mu.Unlock()
		tp.ServeHTTP(w, r)
	}))
	t.Cleanup(tp.http.Close)
	return tp
}

func (tp *tap) seen() []string {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return append([]string(nil), tp.heads...)
}

// dial returns both ends of a conn.
func (tp *tap) dial(t *testing.T, kind requests.Kind) (near, far net.Conn) {
	t.Helper()
	o, err := requests.NewOpening(kind)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := http.NewRequest(http.MethodPost, tp.http.URL, bytes.NewReader(o.Body()))
	r.Header.Set(requests.Header, string(kind))
	tr := &http.Transport{}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	near, err = o.Conn(t.Context(), answer, requests.ConnOptions{
		URL: tp.http.URL, RoundTrip: tr.RoundTrip, Close: tr.CloseIdleConnections,
		Local: &net.TCPAddr{}, Remote: &net.TCPAddr{},
	})
	if err != nil {
		t.Fatal(err)
	}
	far = <-tp.conns
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// replay makes a request with a head that somebody else has made.
func (tp *tap) replay(t *testing.T, method, head string, body []byte) (status int, answer []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, method, tp.http.URL, bytes.NewReader(body))
	r.Header.Set(requests.Header, head)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return 0, nil // it waits, or is cut off: nothing was learnt
	}
	defer resp.Body.Close()
	answer, _ = io.ReadAll(resp.Body)
	return resp.StatusCode, answer
}

// echo sends text from a to b.
func echo(t *testing.T, a, b net.Conn, text string) {
	t.Helper()
	a.SetDeadline(time.Now().Add(20 * time.Second))
	b.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(a, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(b, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v; want %q", got, err, text)
	}
}

// TestReplay repeats all requests that an eavesdropper has seen: it learns
// nothing, and the conn goes on.
func TestReplay(t *testing.T) {
	t.Parallel()
	for _, kind := range []requests.Kind{requests.Stream, requests.Poll} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			tp := newTap(t)
			near, far := tp.dial(t, kind)
			const secret = "the secret of the session"
			for range 5 {
				echo(t, near, far, secret)
				echo(t, far, near, secret)
			}
			var wg sync.WaitGroup
			for _, head := range tp.seen() {
				for _, method := range []string{http.MethodGet, http.MethodPost} {
					wg.Go(func() {
						if _, b := tp.replay(t, method, head, []byte("forged")); bytes.Contains(b, []byte(secret)) {
							t.Error("a repeated request was answered with the secret")
						}
					})
				}
			}
			for range 20 {
				echo(t, near, far, "goes on")
				echo(t, far, near, "goes on")
			}
			wg.Wait()
			echo(t, near, far, "goes on")
			echo(t, far, near, "goes on")
		})
	}
}

// TestForge changes each character of requests that were seen: the answer is the
// same as for a conn that there is not.
func TestForge(t *testing.T) {
	t.Parallel()
	tp := newTap(t)
	near, far := tp.dial(t, requests.Poll)
	echo(t, near, far, "hello")
	head := tp.seen()[0]
	for i := range head {
		forged := []byte(head)
		forged[i] = "AB"[(forged[i]&1)^1]
		if string(forged) == head {
			continue
		}
		status, b := tp.replay(t, http.MethodPost, string(forged), nil)
		if status != http.StatusNotFound && status != http.StatusBadRequest {
			t.Errorf("with character %d changed: status %d, %q; want 404 or 400", i, status, b)
		}
	}
	echo(t, near, far, "goes on")
	echo(t, far, near, "goes on")
}

// TestOpenMalformed makes opening requests that are no keys, or a page's.
func TestOpenMalformed(t *testing.T) {
	t.Parallel()
	s := requests.NewServer(requests.Options{})
	for name, body := range map[string][]byte{
		"empty": nil, "short": make([]byte, 31), "long": make([]byte, 33), "without order": make([]byte, 32),
	} {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set(requests.Header, "poll")
		w := httptest.NewRecorder()
		if _, _, err := s.Open(w, r); err == nil || w.Code != http.StatusBadRequest || w.Header().Get("Adit-Error") != "bad-request" {
			t.Errorf("%s: status %d, %v; want 400 bad-request", name, w.Code, err)
		}
	}
	o, err := requests.NewOpening(requests.Poll)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(o.Body()))
	r.Header.Set(requests.Header, "poll")
	r.Header.Set("Origin", "https://evil.test")
	w := httptest.NewRecorder()
	if _, _, err := s.Open(w, r); err == nil || w.Code != http.StatusForbidden {
		t.Errorf("from a page: status %d, %v; want 403", w.Code, err)
	}
	if s.Len() != 0 {
		t.Errorf("%d conns are there", s.Len())
	}
}

// TestBudget opens conns to a server whose memory is used up: each goes on with
// its floor.
func TestBudget(t *testing.T) {
	t.Parallel()
	tp := newTap(t)
	tp.Server = requests.NewServer(requests.Options{Memory: 1})
	near, far := tp.dial(t, requests.Poll)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, ends := range [][2]net.Conn{{near, far}, {far, near}} {
		var wg sync.WaitGroup
		wg.Go(func() { ends[0].Write(data) })
		got := make([]byte, len(data))
		ends[1].SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(ends[1], got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("with no memory: %v", err)
		}
		wg.Wait()
	}
}
