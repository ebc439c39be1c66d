package main

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"adit/auth"
)

// get returns what is at a URL.
func get(t *testing.T, url string) string {
	t.Helper()
	c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
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

func TestFirstStartSaysHowToConnect(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		person   bool
		listen   string
		want     []string
		mustNot  []string
		showsKey bool
	}{
		{"to a person", true, ":0", []string{"adit http 3000 --server ws://localhost:", "ADIT_TOKEN=adit_"}, nil, true},
		{"to a file", false, ":0", []string{"adit http 3000 --server ws://localhost:", "--secret-file FILE"}, nil, false},
		{"on loopback", true, "127.0.0.1:0", []string{"adit http 3000 --server ws://127.0.0.1:"}, []string{"Or of another"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCommand(t)
			c.person = tt.person
			args := []string{"server", "--listen", tt.listen}
			c.start(t, args...)
			c.out.wait(t, `Expose a service of this machine:\n\n.*\n\n`)
			if code := c.stop(); code != exitDone {
				t.Errorf("got exit code %d, want %d", code, exitDone)
			}
			text := c.out.String()
			if !strings.HasPrefix(text, "http://") {
				t.Errorf("got %q, want the URL first", text)
			}
			// On a machine with loopback alone there is nobody else to tell.
			for _, want := range tt.want {
				if !strings.Contains(text, want) && strings.Contains(text, "Or of another") {
					t.Errorf("got %q, want something with %q", text, want)
				}
			}
			for _, not := range tt.mustNot {
				if strings.Contains(text, not) {
					t.Errorf("got %q, want nothing with %q", text, not)
				}
			}
			file := filepath.Join(c.dataDir(), "secret")
			secret, err := auth.LoadSecret(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text, file) {
				t.Errorf("got %q, want the path %s", text, file)
			}
			if shown := strings.Contains(text, secret.Reveal()); shown && !tt.showsKey || strings.Contains(c.err.String(), secret.Reveal()) {
				t.Error("the secret shows")
			}

			again := newCommand(t)
			again.environ, again.person = c.environ, tt.person
			again.start(t, args...)
			again.err.wait(t, "server started")
			again.stop()
			if text := again.out.String(); text != "" {
				t.Errorf("the second start printed %q, want nothing", text)
			}
		})
	}
}

func TestAgentsFirstLineIsURL(t *testing.T) {
	t.Parallel()
	_, server := startServer(t)
	web := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", site(t), "--id", "web", "--server", server)
	url := web.out.wait(t, `^(http://\S+/web/) +-> +127.0.0.1:\d+\n`)
	if got := get(t, url); got != "the site" {
		t.Errorf("GET %s: got %q", url, got)
	}
	if code := web.stop(); code != exitDone {
		t.Errorf("got exit code %d after a signal, want %d", code, exitDone)
	}
}

func TestAgentWithSeveralTunnels(t *testing.T) {
	t.Parallel()
	_, server := startServer(t, "--tcp-ports", "21000-21099")
	addr := site(t)
	for _, more := range [][]string{nil, {"--session-per-tunnel"}} {
		c := newCommand(t).start(t, append([]string{"agent", "--server", server, "--secret-file", writeFile(t, testSecret),
			"--tunnel", "web=http://" + addr, "--tunnel", "raw=tcp://" + addr}, more...)...)
		url := c.out.wait(t, `(http://\S+/web/) +-> `)
		if got := get(t, url); got != "the site" {
			t.Errorf("GET %s: got %q", url, got)
		}
		raw := c.out.wait(t, `tcp://(\S+) +-> `)
		if got := get(t, "http://"+raw+"/"); got != "the site" {
			t.Errorf("GET from %s: got %q", raw, got)
		}
		c.stop()
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	_, server := startServer(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sub", ".hidden"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"index.html": "home", "sub/a.txt": "a text", "sub/.hidden/b.txt": "b text"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	plain := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", dir, "--id", "plain", "--server", server)
	url := plain.out.wait(t, `^(http://\S+/plain/) +-> +`+regexp.QuoteMeta(dir)+`\n`)
	more := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", dir, "--id", "more", "--server", server, "--listing", "--dot-files")
	moreURL := more.out.wait(t, `^(http://\S+/more/) `)
	for _, tt := range []struct{ url, want string }{
		{url, "home"},
		{url + "sub/a.txt", "a text"},
		{url + "sub", "404 not found"}, // after a redirect
		{url + "sub/.hidden/b.txt", "404 not found"},
		{url + "%2e%2e/%2e%2e/etc/passwd", "404 not found"},
		{moreURL + "sub", `href="./a.txt"`},
		{moreURL + "sub/.hidden/b.txt", "b text"},
	} {
		if got := get(t, tt.url); !strings.Contains(got, tt.want) {
			t.Errorf("GET %s: got %q, want %q", tt.url, got, tt.want)
		}
	}
}

func TestAgentSaysWhyItIsRefused(t *testing.T) {
	t.Parallel()
	server, url := startServer(t)
	c := newCommand(t, "ADIT_TOKEN=the wrong secret, sadly").start(t, "http", "3000", "--server", url)
	line := c.out.wait(t, `(refused.*)\n`)
	for _, want := range []string{"not valid", "--secret-file", "ADIT_TOKEN"} {
		if !strings.Contains(line, want) {
			t.Errorf("got %q, want something with %q", line, want)
		}
	}
	server.err.wait(t, "(?s)agent not admitted.*agent not admitted.*agent not admitted") // it tries on
	if n := strings.Count(c.out.String(), "\n"); n != 1 {
		t.Errorf("got %d lines, want the refusal once:\n%s", n, c.out)
	}
	for _, text := range []string{c.out.String(), c.err.String(), server.err.String()} {
		if strings.Contains(text, "sadly") {
			t.Errorf("the credential shows in %q", text)
		}
	}
}

func TestAgentEndsWhenItCannotSucceed(t *testing.T) {
	t.Parallel()
	_, url := startServer(t)
	code, out, _ := call(t, nil, "token", "create", "--subject", "me", "--id", "mine-*", "--secret-file", writeFile(t, testSecret))
	if code != exitDone || strings.Count(out, ".") != 2 {
		t.Fatalf("adit token: got exit code %d and %q, want a token", code, out)
	}
	token := "ADIT_TOKEN=" + strings.TrimSpace(out)
	c := newCommand(t, token).start(t, "http", site(t), "--id", "mine-web", "--server", url)
	c.out.wait(t, `^(http://\S+/mine-web/) `)

	code, _, errOut := call(t, []string{token}, "tcp", "22", "--id", "mine-ssh", "--port", "2222", "--server", url)
	if code != exitFailed || !strings.Contains(errOut, "does not allow the port 2222") {
		t.Errorf("a port beyond the token: got exit code %d and %q", code, errOut)
	}
}

func TestAgentWaitsForServer(t *testing.T) {
	t.Parallel()
	server, url := startServer(t)
	server.stop()
	addr := strings.TrimPrefix(url, "ws://")
	c := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", site(t), "--id", "web", "--server", url)
	if got, want := c.out.wait(t, `(.*)\n`), "waiting for the server: "+addr+": connection refused"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	newCommand(t).start(t, "server", "--listen", addr, "--secret-file", writeFile(t, testSecret))
	c.out.wait(t, `\nhttp://\S+/web/ +-> `)
}

// adit behind something that speaks TLS, with an authority that only --ca-file
// knows.
func TestCAFile(t *testing.T) {
	t.Parallel()
	server, direct := startServer(t, "--public-url", "https://tunnel.example.com")
	to, err := url.Parse(strings.Replace(direct, "ws", "http", 1))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(to))
	front.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.StartTLS()
	t.Cleanup(front.Close)
	t.Cleanup(func() { server.stop() })
	ca := writeFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})))
	wss := "wss://" + front.Listener.Addr().String()

	without := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", "3000", "--id", "web", "--server", wss)
	if line := without.out.wait(t, `(.*)\n`); !strings.Contains(line, "unknown authority") || !strings.Contains(line, "--ca-file") {
		t.Errorf("got %q, want that the authority is unknown and what helps", line)
	}
	without.stop()
	with := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", "3000", "--id", "web", "--server", wss, "--ca-file", ca)
	with.out.wait(t, `^(https://tunnel.example.com/web/) `)
}

func TestDemo(t *testing.T) {
	t.Parallel()
	c := newCommand(t).start(t, "demo")
	c.out.wait(t, "Ctrl-C")
	urls := strings.Fields(c.out.String())[:2]
	if got := get(t, urls[0]); !strings.Contains(got, "It works") {
		t.Errorf("GET %s: got %q", urls[0], got)
	}
	if !strings.HasPrefix(urls[1], "http://demo.localhost:") {
		t.Errorf("got the second URL %q, want one of localhost", urls[1])
	}
	if code := c.stop(); code != exitDone || c.err.String() != "" {
		t.Errorf("got exit code %d and %q, want %d and nothing", code, c.err, exitDone)
	}
	if _, err := os.Stat(c.dataDir()); err == nil {
		t.Error("the demo left files behind")
	}
}

// What people see on a terminal, where logs would be in their way.
func TestTerminalIsQuiet(t *testing.T) {
	t.Parallel()
	_, url := startServer(t)
	c := newCommand(t, "ADIT_TOKEN="+testSecret)
	c.person, c.console = true, true
	c.start(t, "http", "127.0.0.1:1", "--id", "web", "--server", url)
	got := get(t, c.out.wait(t, `^(http://\S+/web/) `)) // its upstream refuses, which is logged
	if !strings.Contains(got, "upstream-refused") {
		t.Errorf("got %q", got)
	}
	c.stop()
	if text := c.err.String(); text != "" {
		t.Errorf("got the log %q, want none", text)
	}
}

func TestPatienceIsExplained(t *testing.T) {
	t.Parallel()
	c := newCommand(t)
	c.person = true
	ctx, cancel := context.WithCancel(t.Context())
	done := c.patience(ctx)
	defer done()
	began := time.Now()
	cancel()
	c.out.wait(t, "Ctrl-C ends at once")
	if time.Since(began) < 100*time.Millisecond {
		t.Error("it is said even if the end comes soon")
	}
}

// The line for another machine is all that it takes.
func TestServerGreetsWithDevTLS(t *testing.T) {
	t.Parallel()
	c := newCommand(t)
	c.person = true
	c.start(t, "server", "--listen", "127.0.0.1:0", "--dev-tls", "--tls-listen", "127.0.0.1:0", "--public-url", "https://tunnel.example.com")
	c.out.wait(t, `another one, with a copy of /[^ ]*/dev-tls.pem \(the line`)
	c.out.wait(t, ` adit http 3000 --server wss://tunnel.example.com --ca-file dev-tls.pem\n`)
}
