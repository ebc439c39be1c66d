package carrier_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"adit/carrier"
	"adit/carrier/requests"
)

// A requestServer accepts carriers that are made of requests.
type requestServer struct {
	*requests.Server
	url    string
	config *tls.Config
	conns  chan net.Conn

	changed *sync.Cond
	serving int // requests that are not answered yet; guarded by changed.L
}

// serve is ServeHTTP, and counts.
func (rs *requestServer) serve(w http.ResponseWriter, r *http.Request) {
	count := func(n int) {
		rs.changed.L.Lock()
		rs.serving += n
		rs.changed.L.Unlock()
		rs.changed.Broadcast()
	}
	count(1)
	defer count(-1)
	rs.ServeHTTP(w, r)
}

// rest waits until there is one request alone, which waits for bytes to carry.
func (rs *requestServer) rest() {
	rs.changed.L.Lock()
	defer rs.changed.L.Unlock()
	for rs.serving != 1 {
		rs.changed.Wait()
	}
}

// newRequestServer listens, with TLS and so HTTP/2 if secure.
func newRequestServer(t testing.TB, secure bool) *requestServer {
	t.Helper()
	rs := &requestServer{Server: requests.NewServer(requests.Options{}), conns: make(chan net.Conn, 10), changed: sync.NewCond(new(sync.Mutex))}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/connect" {
			rs.serve(w, r)
			return
		}
		if !requests.OpensConn(r) {
			http.Error(w, "no carrier", http.StatusBadRequest)
			return
		}
		c, _, err := rs.Open(w, r)
		if err != nil {
			t.Errorf("Open: %v", err)
			return
		}
		rs.conns <- c
	}))
	if secure {
		srv.EnableHTTP2 = true
		srv.StartTLS()
		roots := x509.NewCertPool()
		roots.AddCert(srv.Certificate())
		rs.config = &tls.Config{RootCAs: roots}
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	rs.url = srv.URL
	return rs
}

// pair returns both ends of a carrier.
func (rs *requestServer) pair(t testing.TB, kind requests.Kind, url string) (near, far net.Conn) {
	t.Helper()
	d := &carrier.Dialer{URL: url + "/connect", TLS: rs.config}
	near, err := d.DialRequests(t.Context(), kind, "/carrier")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if _, err := near.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	// Something on the way may have opened another one, for nobody: far is the
	// one on which the byte comes, however long that takes.
	met := make(chan net.Conn, 1)
	var listening sync.WaitGroup
	t.Cleanup(listening.Wait) // after all are closed
	limit := time.After(time.Minute)
	for {
		select {
		case c := <-rs.conns:
			t.Cleanup(func() { c.Close() })
			listening.Go(func() {
				if _, err := c.Read(make([]byte, 1)); err == nil {
					select {
					case met <- c:
					default:
					}
				}
			})
		case far = <-met:
			return near, far
		case <-limit:
			t.Fatal("the server does not hear of the carrier")
		}
	}
}

func TestRequestsAreConn(t *testing.T) {
	t.Parallel()
	for _, kind := range []requests.Kind{requests.Stream, requests.Poll} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			rs := newRequestServer(t, false)
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				near, far := rs.pair(t, kind, rs.url)
				return near, far, func() { near.Close(); far.Close() }, nil
			})
		})
	}
}

// transfer sends size bytes each way at once, and checks what arrives.
func transfer(t testing.TB, near, far net.Conn, size int) {
	t.Helper()
	data := make([]byte, size)
	var seed [32]byte
	rand.NewChaCha8(seed).Read(data)
	done := make(chan error, 4)
	for _, c := range []net.Conn{near, far} {
		c.SetDeadline(time.Now().Add(time.Minute))
		go func() {
			for b := data; len(b) > 0; {
				n := min(len(b), 1+len(b)%(100<<10))
				if _, err := c.Write(b[:n]); err != nil {
					done <- err
					return
				}
				b = b[n:]
			}
			done <- nil
		}()
		go func() {
			got := make([]byte, size)
			_, err := io.ReadFull(c, got)
			if err == nil && !bytes.Equal(got, data) {
				t.Error("got other bytes than were sent")
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestRequestsCarryBulk(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		for _, kind := range []requests.Kind{requests.Stream, requests.Poll} {
			name := string(kind)
			if secure {
				name += " with HTTP2"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				rs := newRequestServer(t, secure)
				near, far := rs.pair(t, kind, rs.url)
				began := time.Now()
				transfer(t, near, far, 20<<20)
				t.Logf("%.0f MB/s each way", 20/time.Since(began).Seconds())
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				near.Close()
				if n, err := far.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("read %d, %v after the other end was closed, want EOF", n, err)
				}
				far.Close()
				for rs.Len() > 0 {
					select {
					case <-ctx.Done():
						t.Fatalf("%d carriers are left", rs.Len())
					case <-time.After(10 * time.Millisecond):
					}
				}
				if rs.Used() != 0 {
					t.Errorf("%d bytes are held for nobody", rs.Used())
				}
			})
		}
	}
}
