package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"adit/internal/testca"

	"github.com/coder/websocket"
)

// certificate writes a certificate for tunnel.example.com, the names below it
// and localhost, its key, and the certificate of the authority that signed it.
func certificate(t *testing.T, dir string) (cert, key, ca string) {
	t.Helper()
	a := testca.New(t)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	a.Write(t, cert, key, func(c *x509.Certificate) {
		testca.Server("tunnel.example.com", "*.tunnel.example.com", "localhost")(c)
		c.IPAddresses = nil // whoever comes by address is to see that it is not trusted
	})
	return cert, key, a.File(t)
}

// documentedNginx runs nginx with the configuration of docs/getting-started.md,
// in which only addresses and files are others. It returns the certificate of
// the authority that signed the one in use.
func documentedNginx(t *testing.T, port, server string) (ca string) {
	t.Helper()
	return nginxOf(t, "getting-started.md", port, server)
}

// nginxOf is documentedNginx with the configuration of another page.
func nginxOf(t *testing.T, name, port, server string) (ca string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("../docs", name))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```nginx\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatalf("docs/%s has no nginx configuration", name)
	}
	dir := t.TempDir()
	cert, key, ca := certificate(t, dir)
	site := strings.NewReplacer(
		"listen 443 ssl", "listen 127.0.0.1:"+port+" ssl",
		"/etc/ssl/tunnel.example.com.pem", cert,
		"/etc/ssl/tunnel.example.com.key", key,
		"http://127.0.0.1:8080", "http://"+server,
	).Replace(string(m[1]))
	p := nginxWith(t, site, "")
	waitAccepts(t, p, "127.0.0.1:"+port)
	return ca
}

// The whole of docs/getting-started.md: the server behind nginx with TLS, an
// agent that trusts its authority, and visitors who notice neither.
func TestNginxWithTLSInFront(t *testing.T) {
	t.Parallel()
	more := make(chan bool)
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/who":
			for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
				fmt.Fprintln(w, r.Header.Values(name))
			}
			fmt.Fprintln(w, r.Host)
		case "/events":
			io.WriteString(w, "first\n")
			http.NewResponseController(w).Flush()
			select {
			case <-more:
			case <-r.Context().Done():
			}
		case "/upload":
			first := make([]byte, 5)
			io.ReadFull(r.Body, first)
			more <- true
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintln(w, string(first), n, err)
		case "/echo":
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
			if err != nil {
				return
			}
			defer c.CloseNow()
			kind, b, err := c.Read(r.Context())
			if err == nil {
				c.Write(r.Context(), kind, b)
			}
			c.Read(r.Context()) // until the visitor closes
		}
	})
	need(t, "nginx")
	port := freePort(t)
	// Of two flags the last counts: these are the settings of the page.
	s := startServer(t, "--domain", "tunnel.example.com",
		"--public-url", "https://tunnel.example.com:"+port, "--trusted-proxies", "127.0.0.1")
	ca := documentedNginx(t, port, s.addr)
	a := start(t, "agent", aditCommand([]string{binary, "http", up, "--id", "web", "--server", "wss://localhost:" + port,
		"--secret-file", s.secret, "--ca-file", ca}))
	base := "https://web.tunnel.example.com:" + port
	a.waitLog(t, "its public address", 20*time.Second, func(log string) bool { return strings.Contains(log, base+"/") })

	pemCA, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pemCA)
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	visitor := &http.Client{Transport: tr, Timeout: time.Minute}

	req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/who", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "Forwarded"} {
		req.Header.Set(name, "forged")
	}
	resp, err := visitor.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	host := "web.tunnel.example.com:" + port
	if want := fmt.Sprintf("[127.0.0.1, 127.0.0.1]\n[https]\n[%s]\n%s\n", host, host); err != nil || string(got) != want {
		t.Errorf("the upstream was told %q, %v, want %q", got, err, want)
	}

	t.Run("download is not buffered", func(t *testing.T) {
		resp, err := visitor.Get(base + "/events")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "first\n" {
			t.Errorf("got %q, %v, want the first line before the last", line, err)
		}
		more <- true
	})
	t.Run("upload is not buffered", func(t *testing.T) {
		const size = 8 << 20 // more than nginx takes by default
		r, w := io.Pipe()
		go func() {
			io.WriteString(w, "first")
			select {
			case <-more: // the upstream has it
				io.Copy(w, body(size))
			case <-t.Context().Done():
			}
			w.Close()
		}()
		resp, err := visitor.Post(base+"/upload", "text/plain", r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != fmt.Sprintln("first", size, nil) {
			t.Errorf("got %q, %v, want that all of it came", got, err)
		}
	})
	t.Run("visitor's WebSocket", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		c, _, err := websocket.Dial(ctx, base+"/echo", &websocket.DialOptions{HTTPClient: visitor})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, b, err := c.Read(ctx); err != nil || string(b) != "hello" {
			t.Errorf("got %q, %v, want the echo", b, err)
		}
	})
}
