package e2e

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Thousands of visitors who never finish their handshake, or their request, do
// not keep a good one waiting, and cost little memory.
func TestHalfOpenVisitors(t *testing.T) {
	count := 2000
	if long() {
		count = 10_000
	}
	s := startTLS(t)
	s.agent(t, "http", upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }), "--id", "web")
	near, far := net.Pipe()
	go tls.Client(near, &tls.Config{ServerName: "web." + domain, InsecureSkipVerify: true}).Handshake()
	hello := make([]byte, 4<<10)
	n, err := far.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	far.Close()
	hello = hello[:n]
	kinds := []struct {
		addr string
		send string
	}{
		{s.tlsAddr, ""},
		{s.tlsAddr, string(hello[:100])},
		{s.tlsAddr, string(hello[:n-1])},
		{s.tlsAddr, string(hello)},
		{s.addr, "GET / HTTP/1.1\r\nHost: web." + domain + "\r\nX-Slow: "},
	}
	before, _ := s.memory(t)
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	var wg sync.WaitGroup
	for worker := range 20 {
		wg.Go(func() {
			for i := worker; i < count; i += 20 {
				k := kinds[i%len(kinds)]
				c, err := net.DialTimeout("tcp", k.addr, 10*time.Second)
				if err != nil {
					t.Errorf("visitor %d: %v", i, err)
					return
				}
				io.WriteString(c, k.send)
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	after, _ := s.memory(t)
	if each := (after - before) / int64(count); each > 64<<10 {
		t.Errorf("each of %d visitors takes %d bytes, want at most 64 KiB", count, each)
	}
	for range 10 {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.ca.Pool, ServerName: "web." + domain}}
		begin := time.Now()
		req, _ := http.NewRequest("GET", "https://"+s.tlsAddr+"/", nil)
		req.Host = "web." + domain
		resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		tr.CloseIdleConnections()
		if took := time.Since(begin); !strings.Contains(string(b), "hello") || took > 5*time.Second {
			t.Errorf("a good visitor got %q after %v, want it at once", b, took)
		}
	}
	t.Logf("%d visitors: %d bytes each", count, (after-before)/int64(count))
}
