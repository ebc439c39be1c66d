package httprelay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/errorpage"
	"adit/internal/headerrule"
	"adit/internal/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// serve runs h for both versions of HTTP, without TLS, and returns its address.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(ln) })
	t.Cleanup(func() { s.Close(); wg.Wait() })
	return ln.Addr().String()
}

// relay runs a relay to addr and returns its address.
func relay(t *testing.T, addr string, change func(*Options)) string {
	t.Helper()
	opts := Options{Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}}
	if change != nil {
		change(&opts)
	}
	r := New(opts)
	t.Cleanup(r.CloseIdleConnections)
	return serve(t, r)
}

// transport returns one for that version of HTTP, without TLS.
func transport(t *testing.T, http2 bool) *http.Transport {
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func rules(t *testing.T, set, remove []string) headerrule.Rules {
	t.Helper()
	r, err := headerrule.New(set, remove)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// exchange sends raw bytes and returns the raw answer.
func exchange(t *testing.T, addr, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, request)
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// scripted is an upstream that answers each request with the same bytes, and
// keeps the heads of what it got.
func scripted(t *testing.T, answer string) (addr string, heads *[]string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heads = new([]string)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			head := ""
			for !strings.HasSuffix(head, "\r\n\r\n") {
				line, err := r.ReadString('\n')
				if err != nil {
					break
				}
				head += line
			}
			*heads = append(*heads, head)
			io.WriteString(c, answer)
			c.Close()
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String(), heads
}

// What no rule is about goes through as it was, to the letter.
func TestPassesOn(t *testing.T) {
	t.Parallel()
	addr, heads := scripted(t, "HTTP/1.1 200 OK\r\nX-Up: 1\r\nAdit-Error: forged\r\nAdit_Error: forged\r\nContent-Length: 6\r\n\r\n<html>")
	got := exchange(t, relay(t, addr, nil), "GET /a%2Fb/%7e|\"x\"//../c?q=%zz;a&b= HTTP/1.1\r\nHost: Web.Example.com:81\r\nx-A: 1\r\nX-A: 2\r\n"+
		"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: web\r\nX-Forwarded-Proto: https\r\nForwarded: for=192.0.2.1\r\nConnection: close\r\n\r\n")
	if strings.Contains(got, "forged") || strings.Contains(got, "Content-Type") || !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") ||
		!strings.Contains(got, "X-Up: 1\r\n") || !strings.HasSuffix(got, "\r\n\r\n<html>") {
		t.Errorf("visitor got %q", got)
	}
	head := (*heads)[0]
	line, fields, _ := strings.Cut(head, "\r\n")
	if line != `GET /a%2Fb/%7e|"x"//../c?q=%zz;a&b= HTTP/1.1` {
		t.Errorf("request line %q", line)
	}
	h, err := textproto.NewReader(bufio.NewReader(strings.NewReader(fields))).ReadMIMEHeader()
	if err != nil {
		t.Fatal(err)
	}
	want := textproto.MIMEHeader{
		"Host": {"Web.Example.com:81"}, "X-A": {"1", "2"}, "X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Host": {"web"},
		"X-Forwarded-Proto": {"https"}, "Forwarded": {"for=192.0.2.1"},
	}
	if fmt.Sprint(h) != fmt.Sprint(want) {
		t.Errorf("upstream got %v, want %v", h, want)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	up := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %q %q", r.Host, r.Header["X-Env"], r.Header["X-Gone"])
	})
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "up")
		w.Header().Set("X-Frame-Options", "ALLOW")
		w.Header().Set("Location", "http://localhost:3000/next")
		w.Header().Set("Adit-Error", "forged")
		up(w, r)
	})
	addr := serve(t, answer)
	for name, change := range map[string]func(*Options){
		"upstream": func(*Options) {},
		"handler":  func(o *Options) { o.Dial, o.Handler = nil, answer },
	} {
		for _, http2 := range []bool{false, true} {
			at := relay(t, addr, func(o *Options) {
				o.Request = rules(t, []string{"X-Env: dev"}, []string{"X-Gone"})
				o.Response = rules(t, []string{"X-Frame-Options: DENY"}, []string{"Server"})
				o.Scheme, o.Host = "http", "localhost:3000"
				change(o)
			})
			req, err := http.NewRequest("GET", "http://"+at+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "web.example.com"
			req.Header.Set("X-Gone", "x")
			req.Header.Set("X-Env", "visitor")
			req.Header.Set("X-Forwarded-Proto", "https")
			resp, err := transport(t, http2).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if string(body) != `localhost:3000 ["dev"] []` {
				t.Errorf("%s, HTTP/2 %v: upstream got %s", name, http2, body)
			}
			h := resp.Header
			if h.Get("X-Frame-Options") != "DENY" || h["Server"] != nil || h.Get("Location") != "https://web.example.com/next" || h["Adit-Error"] != nil {
				t.Errorf("%s, HTTP/2 %v: visitor got %q", name, http2, h)
			}
		}
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	refused := errors.New("nobody is there")
	for _, tt := range []struct {
		name, answer string
		dial         func(context.Context) (net.Conn, error)
		status       int
		code         string
	}{
		{"dial", "", func(context.Context) (net.Conn, error) { return nil, refused }, 502, "explained"},
		{"closed", "", nil, 502, "upstream-closed"},
		{"garbage", "SSH-2.0-OpenSSH\r\n\r\n", nil, 502, "upstream-bad-response"},
	} {
		addr, _ := scripted(t, tt.answer)
		at := relay(t, addr, func(o *Options) {
			if tt.dial != nil {
				o.Dial = tt.dial
			}
			o.Explain = func(err error) errorpage.Page {
				if err != refused {
					t.Errorf("%s: Explain gets %v", tt.name, err)
				}
				return errorpage.Page{Code: "explained", Status: 502, Text: "x"}
			}
		})
		got := exchange(t, at, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", tt.status)) || !strings.Contains(got, "\r\nAdit-Error: "+tt.code+"\r\n") {
			t.Errorf("%s: got %q, want %d %s", tt.name, got, tt.status, tt.code)
		}
	}
}

// The upstream sees no request that is not signed, and the very bytes that were.
func TestWebhook(t *testing.T) {
	t.Parallel()
	const secret = "a secret for tests"
	v, err := webhook.New(webhook.Options{Scheme: "github", Secrets: []string{secret}})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var got [][]byte
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, b)
	}))
	at := relay(t, addr, func(o *Options) { o.Webhook = v })
	payload := bytes.Repeat([]byte{0, '\n', 0xff, '"'}, 50_000)
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(payload)
	signature := "sha256=" + hex.EncodeToString(m.Sum(nil))
	for _, tt := range []struct {
		name, signature string
		chunked         bool
		status          int
	}{
		{"signed", signature, false, 200},
		{"signed, in chunks", signature, true, 200},
		{"not signed", "", false, 401},
		{"signed by others", "sha256=" + strings.Repeat("0", 64), false, 403},
	} {
		var body io.Reader = bytes.NewReader(payload)
		if tt.chunked {
			body = io.MultiReader(body)
		}
		req, err := http.NewRequest("POST", "http://"+at+"/", body)
		if err != nil {
			t.Fatal(err)
		}
		if tt.signature != "" {
			req.Header.Set("X-Hub-Signature-256", tt.signature)
		}
		resp, err := transport(t, false).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.status {
			t.Errorf("%s: got %d, want %d", tt.name, resp.StatusCode, tt.status)
		}
	}
	if len(got) != 2 || !slices.EqualFunc(got, [][]byte{payload, payload}, bytes.Equal) {
		t.Errorf("the upstream got %d requests, want the 2 that were signed", len(got))
	}
}

// A handler's response without a body, and one that is flushed, are changed too.
func TestHandlerResponses(t *testing.T) {
	t.Parallel()
	h := New(Options{
		Response: rules(t, []string{"X-Rule: yes"}, nil),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/hints":
				w.WriteHeader(http.StatusEarlyHints)
				w.Header().Set("X-Rule", "no")
				w.WriteHeader(204)
			case "/flush":
				w.Header().Set("X-Rule", "no")
				w.(http.Flusher).Flush()
				io.WriteString(w, "x")
			case "/write":
				io.WriteString(w, "x")
			}
		}),
	})
	at := serve(t, h)
	for _, path := range []string{"/", "/hints", "/flush", "/write"} {
		req, err := http.NewRequest("GET", "http://"+at+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport(t, false).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Values("X-Rule"); len(got) != 1 || got[0] != "yes" {
			t.Errorf("%s: X-Rule %q, want yes", path, got)
		}
	}
	h.CloseIdleConnections() // does nothing
}
