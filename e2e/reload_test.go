package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An agentFile is the config file of an agent that runs.
type agentFile struct {
	t    *testing.T
	path string
	head string
	n    int
}

func (f *agentFile) write(tunnels string) {
	f.t.Helper()
	f.n++
	text := fmt.Sprintf("%s# version %d\ntunnels:\n%s", f.head, f.n, tunnels)
	if err := os.WriteFile(f.path+".new", []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		f.t.Fatal(err)
	}
}

// While an agent takes one new set of tunnels after the other, some of them
// broken, visitors get their answers, and streams of tunnels that stay and of
// those that go come to their end.
func TestNothingIsLostWhileAgentReloads(t *testing.T) {
	t.Parallel()
	need(t, "go")
	staying, going := freePort(t), freePort(t)
	s := startServer(t, "--tcp-ports", staying+","+going)
	// The second half of a download waits for the test.
	const pieces = 40
	release := make(chan struct{})
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/download" {
			numbered(w, r)
			return
		}
		for n := range pieces {
			if n == pieces/2 {
				http.NewResponseController(w).Flush()
				select {
				case <-release:
				case <-r.Context().Done():
					return
				}
			}
			w.Write(piece(int64(n), 10_000))
		}
	})
	other := upstream(t, numbered)
	f := &agentFile{t: t, path: filepath.Join(t.TempDir(), "adit.yaml"),
		head: fmt.Sprintf("server: ws://%s\nsecret-file: %s\nlog-level: debug\n", s.addr, s.secret)}
	web := func(to string) string { return fmt.Sprintf("  - http: %s\n    id: web\n", to) }
	raw := func(id, port string) string {
		return fmt.Sprintf("  - tcp: %s\n    id: %s\n    port: %s\n", up, id, port)
	}
	f.write(web(up) + raw("staying", staying) + raw("going", going))
	a := start(t, "agent", aditCommand([]string{binary, "agent", "--config", f.path}))
	s.waitTunnel(t, "web")
	for _, port := range []string{staying, going} {
		waitAccepts(t, a, "127.0.0.1:"+port)
	}
	visitor := s.visitor(t)
	var downloads []*http.Response
	for _, url := range []string{s.hostURL("web"), "http://127.0.0.1:" + staying, "http://127.0.0.1:" + going} {
		client := visitor
		if url != s.hostURL("web") {
			client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		}
		resp, err := client.Get(url + "/download")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		downloads = append(downloads, resp)
	}
	l := startLoad(t, s, false)
	l.expect(t, 100)
	for n := range 12 {
		upstreams := []string{up, other}
		switch {
		case n%4 == 3:
			f.write("  - http: [broken\n")
		case n == 0:
			f.write(web(upstreams[n%2]) + raw("staying", staying) + raw("going", going))
		default:
			f.write(web(upstreams[n%2]) + raw("staying", staying) + fmt.Sprintf("  - http: %s\n    id: more-%d\n", other, n))
		}
		syscall.Kill(a.pid, syscall.SIGHUP)
		l.expect(t, 150)
	}
	if _, err := net.Dial("tcp", "127.0.0.1:"+going); err == nil {
		t.Error("the port of a tunnel that has gone is open")
	}
	close(release)
	want := sha256.New()
	for n := range pieces {
		want.Write(piece(int64(n), 10_000))
	}
	for _, resp := range downloads {
		got := sha256.New()
		if n, err := io.Copy(got, resp.Body); err != nil || string(got.Sum(nil)) != string(want.Sum(nil)) {
			t.Errorf("download over %d reloads: %d bytes, %v; want all of it", f.n, n, err)
		}
	}
	a.waitLog(t, "word of the broken file", 10*time.Second, func(log string) bool {
		return strings.Contains(log, "not reloaded") && strings.Contains(log, "that begins in line 6, column 11")
	})
}
