package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const wstunnelToken = "rendez-vous-token-of-e2e"

// startWstunnel starts a server, and returns what starts clients of it.
func startWstunnel(t *testing.T) (addr string, client func(args ...string) *process) {
	t.Helper()
	_, addr, client = startWstunnelServer(t)
	return addr, client
}

// startWstunnelServer is startWstunnel for those who want to look at the server.
func startWstunnelServer(t *testing.T) (srv *process, addr string, client func(args ...string) *process) {
	t.Helper()
	addr = "127.0.0.1:" + freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	srv = start(t, "wstunnel srv", aditCommand([]string{binary, "wstunnel", "srv", "-host", "127.0.0.1", "-port", port}))
	waitAccepts(t, srv, addr)
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(wstunnelToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return srv, addr, func(args ...string) *process {
		return start(t, "wstunnel cli", aditCommand(append([]string{binary, "wstunnel", "cli", "-token-file", tokenFile}, args...)))
	}
}

// nginxBlocks are the configurations in a page of the documentation.
func nginxBlocks(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, part := range strings.Split(string(text), "```nginx\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, block)
	}
	return blocks
}

// The configuration that the documentation gives for nginx with TLS carries
// tunnels, callers, streams and large bodies.
func TestWstunnelBehindNginx(t *testing.T) {
	t.Parallel()
	curl := need(t, "curl")
	addr, client := startWstunnel(t)
	blocks := nginxBlocks(t, "../docs/dialects/wstunnel.md")
	if len(blocks) != 2 {
		t.Fatalf("the page has %d configurations, want 2", len(blocks))
	}
	dir := t.TempDir()
	cert, key, ca := certificate(t, dir)
	front := freePort(t)
	waitAccepts(t, nginxWith(t, fmt.Sprintf("%s\nserver { listen 127.0.0.1:%s ssl; ssl_certificate %s; ssl_certificate_key %s; %s }",
		blocks[1], front, cert, key, strings.Replace(blocks[0], "127.0.0.1:8080", addr, 1)), ""), "127.0.0.1:"+front)
	upstream, _ := startNginx(t)
	const size = 5<<20 + 17
	file := filepath.Join(dir, "file")
	writeFile(t, file, size)
	for _, tt := range []struct {
		name string
		args []string
	}{{"session", nil}, {"messages", []string{"-original-format"}}} {
		c := client(append(tt.args, "-tunnel", "wss://localhost:"+front, "-certfile", ca, "-server", "http://"+upstream)...)
		base := "https://localhost:" + front
		eventually(t, "an answer over "+tt.name, 20*time.Second, func(ctx context.Context) error {
			_, err := try(ctx, 10*time.Second, curl, "-sS", "--fail", "--cacert", ca, "-T", file, base+"/_token/"+wstunnelToken+"/"+tt.name)
			return err
		})
		copied := filepath.Join(dir, tt.name)
		run(t, time.Minute, curl, "-sS", "--fail", "--cacert", ca, "-H", "X-Token: "+wstunnelToken, "-o", copied, base+"/"+tt.name)
		if got, want := sumOf(t, copied), sumOf(t, file); got != want {
			t.Errorf("%s: got SHA-256 %x, want %x", tt.name, got, want)
		}
		stats := run(t, time.Minute, curl, "-sS", "--cacert", ca, "-H", "X-Forwarded-For: 127.0.0.1", base+"/_stats")
		if stats != "tunnels=1\nMore stats available when called from localhost...\n" {
			t.Errorf("%s: statistics from outside: %q", tt.name, stats)
		}
		if log, _ := c.log.read(); strings.Contains(log, wstunnelToken[:8]) {
			t.Errorf("%s: the client's log has a part of the token", tt.name)
		}
		c.kill()
	}
	// Names are verified: nobody is at this one with that certificate.
	c := client("-tunnel", "wss://127.0.0.1:"+front, "-certfile", ca, "-server", "http://"+upstream)
	c.waitLog(t, "a refusal of the certificate", 20*time.Second, func(log string) bool { return strings.Contains(log, "x509:") })
}

// A client that is killed with requests costs none of those that can be
// repeated, and repeats none of the others.
func TestWstunnelClientKilled(t *testing.T) {
	t.Parallel()
	const n = 500
	for _, format := range []string{"", "-original-format"} {
		for _, method := range []string{"GET", "POST"} {
			t.Run(method+format, func(t *testing.T) {
				t.Parallel()
				addr, client := startWstunnel(t)
				var came atomic.Int64
				var seen sync.Map // how often each request came
				held := make(chan struct{})
				local := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					if r.URL.RawQuery != "" {
						times, _ := seen.LoadOrStore(r.URL.RawQuery, new(atomic.Int64))
						times.(*atomic.Int64).Add(1)
						came.Add(1)
						select {
						case <-held:
						case <-r.Context().Done():
						}
					}
					io.WriteString(w, r.URL.RawQuery)
				})}
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				go local.Serve(l)
				defer local.Close()
				args := []string{"-tunnel", "ws://" + addr, "-server", "http://" + l.Addr().String()}
				if format != "" {
					args = append(args, format)
				}
				c := client(args...)
				hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n}}
				defer hc.CloseIdleConnections()
				ask := func(ctx context.Context, query string) (int, string, error) {
					req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+"/_token/"+wstunnelToken+"/?"+query, strings.NewReader("body"))
					if err != nil {
						return 0, "", err
					}
					resp, err := hc.Do(req)
					if err != nil {
						return 0, "", err
					}
					defer resp.Body.Close()
					text, err := io.ReadAll(resp.Body)
					return resp.StatusCode, string(text), err
				}
				eventually(t, "the tunnel", 20*time.Second, func(ctx context.Context) error {
					code, _, err := ask(ctx, "")
					if err == nil && code != 200 {
						err = errors.New("not yet")
					}
					return err
				})
				var wg sync.WaitGroup
				var failed atomic.Int64
				for i := range n {
					wg.Go(func() {
						query := fmt.Sprint(i)
						code, text, err := ask(t.Context(), query)
						if err != nil || code == 200 && text != query || method == "GET" && code != 200 {
							t.Errorf("request %s: %d %q %v", query, code, text, err)
						}
						if code != 200 {
							failed.Add(1)
						}
					})
				}
				eventually(t, "half of the requests", 20*time.Second, func(context.Context) error {
					if came.Load() < n/2 {
						return errors.New("not yet")
					}
					return nil
				})
				c.kill()
				close(held)
				client(args...)
				wg.Wait()
				if method == "POST" {
					seen.Range(func(query, times any) bool {
						if got := times.(*atomic.Int64).Load(); got != 1 {
							t.Errorf("POST %s came %d times", query, got)
						}
						return true
					})
				}
				t.Logf("%d of %d were refused", failed.Load(), n)
			})
		}
	}
}
