package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// A cutter is a TCP relay whose connections can be cut.
type cutter struct {
	ln     net.Listener
	target string
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // both ends of all connections
	closed bool
}

func startCutter(t *testing.T, target string) *cutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{ln: ln, target: target, conns: map[net.Conn]struct{}{}}
	c.wg.Go(c.serve)
	t.Cleanup(func() {
		ln.Close()
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		c.cut()
		c.wg.Wait()
	})
	return c
}

func (c *cutter) serve() {
	for {
		in, err := c.ln.Accept()
		if err != nil {
			return
		}
		c.wg.Go(func() { c.relay(in) })
	}
}

func (c *cutter) relay(in net.Conn) {
	defer in.Close()
	out, err := net.DialTimeout("tcp", c.target, 5*time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.conns[in], c.conns[out] = struct{}{}, struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.conns, in)
		delete(c.conns, out)
		c.mu.Unlock()
	}()
	var wg sync.WaitGroup
	for _, d := range [][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			io.Copy(d[1], d[0])
			in.Close()
			out.Close()
		})
	}
	wg.Wait()
}

// cut ends all connections and returns how many there were.
func (c *cutter) cut() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		conn.Close()
	}
	return len(c.conns) / 2
}

func TestDownloadIsWholeWhileCarrierIsCutEverySecond(t *testing.T) {
	t.Parallel()
	need(t, "go")
	size, rate := int64(64<<20), int64(16<<20)
	if long() {
		size, rate = 1<<30, 40<<20
	}
	addr := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/file" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			copyPaced(w, body(size), rate, r)
		}
	})
	s := startServer(t)
	c := startCutter(t, s.addr)
	s.agentVia(t, c.ln.Addr().String(), nil, "http", addr, "--id", "web")
	s.waitTunnel(t, "web")

	req, err := http.NewRequestWithContext(t.Context(), "GET", s.hostURL("web")+"/file", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.visitor(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %s", resp.Status)
	}
	checked := make(chan error, 1)
	go func() { checked <- checkBody(resp.Body, size) }() // ends with the response, which the deferred Close ends
	every := time.NewTicker(time.Second)
	defer every.Stop()
	cuts := 0
	for {
		select {
		case <-every.C:
			cuts += min(c.cut(), 1)
			continue
		case err = <-checked:
		}
		break
	}
	if err != nil {
		t.Error(err)
	}
	if cuts < 3 {
		t.Errorf("the carrier was cut %d times, want at least 3", cuts)
	}
	t.Logf("%d MiB came whole over a carrier that was cut %d times", size>>20, cuts)
}
