package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const tunnelSecret = "an example secret"

// tunnelToken is a token for the id demo as websocktunnel's clients show it.
func tunnelToken(t *testing.T, life time.Duration) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{
		"tid": "demo", "nbf": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(life).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	mac := hmac.New(sha256.New, []byte(tunnelSecret))
	io.WriteString(mac, text)
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// A wst is adit in the place of websocktunnel and of its client.
type wst struct {
	server, client *process
	serverAs       string // its link
	port           string
	visitor        *http.Client
}

// startWst starts both, called by the names of the programs.
func startWst(t *testing.T, upstream string) *wst {
	t.Helper()
	need(t, "go")
	w := &wst{port: freePort(t)}
	dir := t.TempDir()
	link := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.Symlink(binary, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	w.serverAs = link("websocktunnel")
	w.startServer(t)
	_, port, err := net.SplitHostPort(upstream)
	if err != nil {
		t.Fatal(err)
	}
	w.client = start(t, "wst-client", aditCommand([]string{link("wst-client"), "http://127.0.0.1:" + w.port, "demo", port, "--token", tunnelToken(t, time.Hour)}))
	w.client.waitLog(t, "word of the connection", 10*time.Second, func(log string) bool {
		return strings.Contains(log, `msg="connected to websocktunnel" url="http://127.0.0.1:`+w.port+`/demo"`)
	})
	tr := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	w.visitor = &http.Client{Transport: tr}
	return w
}

func (w *wst) url(path string) string { return "http://127.0.0.1:" + w.port + "/demo" + path }

// Two hundred visitors at once, one who stops reading, large bodies both ways
// and many small ones: all bytes arrive, and neither side takes 64 MiB.
func TestWebsocktunnelTakesLittleMemory(t *testing.T) {
	t.Parallel()
	need(t, "go")
	large, small := int64(128<<20), 2000
	if long() {
		large, small = 1<<30, 10_000
	}
	const limit = 64 << 20
	addr := upstream(t, func(rw http.ResponseWriter, r *http.Request) {
		var size int64
		switch fmt.Sscanf(r.URL.Path, "/down/%d", &size); r.Method {
		case "GET":
			rw.Header().Set("Content-Length", fmt.Sprint(size))
			io.Copy(rw, body(size))
		case "POST":
			if err := checkBody(r.Body, r.ContentLength); err != nil {
				http.Error(rw, err.Error(), http.StatusBadRequest)
			}
		}
	})
	w := startWst(t, addr)
	get := func(size int64) error {
		resp, err := w.visitor.Get(w.url(fmt.Sprintf("/down/%d", size)))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", resp.Status)
		}
		return checkBody(resp.Body, size)
	}
	many := func(visitors, requests int, size int64) {
		t.Helper()
		var wg sync.WaitGroup
		left := make(chan struct{}, requests)
		for range requests {
			left <- struct{}{}
		}
		close(left)
		for range visitors {
			wg.Go(func() {
				for range left {
					if err := get(size); err != nil {
						t.Errorf("body of %d bytes: %v", size, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	step := func(name string, f func()) {
		t.Helper()
		began := time.Now()
		f()
		_, server := w.server.memory(t)
		_, client := w.client.memory(t)
		t.Logf("%s: %v, peaks so far: server %d MiB, client %d MiB", name, time.Since(began).Round(time.Millisecond), server>>20, client>>20)
		if server > limit || client > limit {
			t.Errorf("%s: the server peaked at %d MiB and the client at %d MiB, want at most %d", name, server>>20, client>>20, limit>>20)
		}
	}

	stalled, err := net.Dial("tcp", "127.0.0.1:"+w.port)
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	fmt.Fprintf(stalled, "GET /demo/down/%d HTTP/1.1\r\nHost: x\r\n\r\n", large)
	if _, err := io.ReadFull(stalled, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	step("200 visitors", func() { many(200, 200, 1<<20) })
	step("short requests", func() { many(64, small, 128) })
	step("download", func() { many(1, 1, large) })
	step("upload", func() {
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.url("/up"), body(large))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = large
		resp, err := w.visitor.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(resp.Body)
			t.Errorf("status %s: %s", resp.Status, b)
		}
	})
}

// The client survives the loss of its server and of its connection, and serves
// again at once.
func TestWebsocktunnelServerRestart(t *testing.T) {
	t.Parallel()
	need(t, "go")
	w := startWst(t, upstream(t, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hello") }))
	ready := func() {
		t.Helper()
		eventually(t, "the client serves", 10*time.Second, func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, "GET", w.url("/"), nil)
			if err != nil {
				return err
			}
			resp, err := w.visitor.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); string(b) != "hello" {
				return fmt.Errorf("%s %q, %v", resp.Status, b, err)
			}
			return nil
		})
	}
	ready()
	w.server.kill()
	w.startServer(t)
	ready()
}

// startServer starts the server, again if it had ended.
func (w *wst) startServer(t *testing.T) {
	t.Helper()
	c := aditCommand([]string{w.serverAs})
	c.Env = append(c.Env, "URL_PREFIX=http://127.0.0.1:"+w.port, "PORT="+w.port, "HOSTNAME=",
		"TASKCLUSTER_PROXY_SECRET_A="+tunnelSecret, "TASKCLUSTER_PROXY_SECRET_B=another")
	w.server = start(t, "websocktunnel", c)
	waitAccepts(t, w.server, "127.0.0.1:"+w.port)
}
