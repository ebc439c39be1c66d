package wayout_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/wayout"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// serve answers one conn after the other with f until the test ends.
func serve(t *testing.T, f func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(patience))
			f(c)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

func via(s string) func(*url.URL) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return func(*url.URL) (*url.URL, error) { return u, nil }
}

var server = &url.URL{Scheme: "https", Host: "tunnel.example.com"}

func TestConnect(t *testing.T) {
	t.Parallel()
	asked := make(chan *http.Request, 1)
	addr := serve(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			t.Error(err)
			return
		}
		asked <- r
		io.WriteString(c, "HTTP/1.1 200 Connection established\r\nVia: here\r\n\r\nthe server speaks first")
	})
	d := wayout.Dialer{Proxy: via("http://me:pass%20word@" + addr)}
	c, err := d.Dial(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := <-asked
	if r.Method != "CONNECT" || r.Host != "tunnel.example.com:443" {
		t.Errorf("asked for %s %s", r.Method, r.Host)
	}
	if got, want := r.Header.Get("Proxy-Authorization"), "Basic bWU6cGFzcyB3b3Jk"; got != want {
		t.Errorf("authorization is %q, want %q", got, want)
	}
	if got, err := io.ReadAll(c); string(got) != "the server speaks first" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestSOCKS5(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	addr := serve(t, func(c net.Conn) {
		b := make([]byte, 512)
		io.ReadFull(c, b[:2])
		io.ReadFull(c, b[:b[1]])
		c.Write([]byte{5, 0})
		io.ReadFull(c, b[:5])
		host := make([]byte, b[4])
		io.ReadFull(c, host)
		io.ReadFull(c, b[:2])
		if port := binary.BigEndian.Uint16(b); port != 443 {
			t.Errorf("port is %d", port)
		}
		asked <- string(host)
		c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		io.WriteString(c, "hello")
	})
	d := wayout.Dialer{Proxy: via("socks5://" + addr)}
	c, err := d.Dial(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := <-asked; got != "tunnel.example.com" { // the proxy looks the name up
		t.Errorf("asked for %q", got)
	}
	if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestProxyErrors(t *testing.T) {
	t.Parallel()
	answer := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, text)
		}
	}
	for name, tt := range map[string]struct {
		proxy  string
		serve  func(net.Conn)
		status int
		want   string
	}{
		"wants a password": {"http://me:hidden@", answer("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"), 407, "give user and password"},
		"forbids":          {"http://me:hidden@", answer("HTTP/1.1 403 No\r\n\r\n"), 403, "403 Forbidden"},
		"is no proxy":      {"http://me:hidden@", answer("SSH-2.0-nothing\r\n"), 0, "read the answer"},
		"says nothing":     {"http://me:hidden@", func(net.Conn) {}, 0, "read the answer"},
		"answers for ever": {"http://me:hidden@", answer("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), 0, "read the answer"},
		"unknown scheme":   {"ftp://me:hidden@", func(net.Conn) {}, 0, `scheme "ftp"`},
		"no TLS":           {"https://me:hidden@", answer("HTTP/1.1 400 No\r\n\r\n"), 0, "proxy https://"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := wayout.Dialer{Proxy: via(tt.proxy + serve(t, tt.serve)), Timeout: patience}
			c, err := d.Dial(t.Context(), server)
			if err == nil {
				c.Close()
				t.Fatal("it was opened")
			}
			pe := (*wayout.ProxyError)(nil)
			if !errors.As(err, &pe) || pe.StatusCode != tt.status || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want status %d and %q", err, tt.status, tt.want)
			}
			if strings.Contains(err.Error(), "hidden") {
				t.Errorf("the password is in %q", err)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	addr := serve(t, func(net.Conn) { <-hold })
	defer close(hold)
	for name, dial := range map[string]func() (net.Conn, error){
		"of the dialer": func() (net.Conn, error) {
			d := wayout.Dialer{Proxy: via("http://" + addr), Timeout: 10 * time.Millisecond}
			return d.Dial(t.Context(), server)
		},
		"of the context": func() (net.Conn, error) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*time.Millisecond, cancel)
			d := wayout.Dialer{Proxy: via("http://" + addr)}
			return d.Dial(ctx, server)
		},
	} {
		if c, err := dial(); err == nil {
			c.Close()
			t.Errorf("%s: it was opened", name)
		}
	}
}

func TestFromEnvironment(t *testing.T) {
	t.Parallel()
	env := map[string]string{"HTTP_PROXY": "http://a:1", "https_proxy": "http://b:2", "NO_PROXY": "internal.example.com"}
	proxy := wayout.FromEnvironment(func(name string) string { return env[name] })
	for server, want := range map[string]string{
		"http://tunnel.example.com":    "http://a:1",
		"https://tunnel.example.com":   "http://b:2",
		"https://internal.example.com": "<nil>",
		"http://127.0.0.1:8080":        "<nil>",
		"http://localhost":             "<nil>",
	} {
		u, _ := url.Parse(server)
		p, err := proxy(u)
		got := "<nil>"
		if p != nil {
			got = p.String()
		}
		if got != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", server, got, err, want)
		}
	}
}
