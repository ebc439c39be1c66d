package carrier_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"adit/carrier"
	"adit/internal/testtcp"
)

// serveRaw answers each conn with serve, which need not close it, until the
// test ends. It returns the address.
func serveRaw(t *testing.T, serve func(c net.Conn)) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	addr := testtcp.Serve(t, func(c net.Conn) {
		defer context.AfterFunc(ctx, func() { c.Close() })()
		serve(c)
	})
	t.Cleanup(cancel) // before Serve waits for them
	return addr
}

// readHead reads a request's head and returns it.
func readHead(c net.Conn) string {
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
		if _, err := c.Read(b); err != nil {
			return ""
		}
		head = append(head, b[0])
	}
	return string(head)
}

// headerOf returns a header's value in a request's head.
func headerOf(head, name string) string {
	for line := range strings.Lines(head) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, name) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"

// goodHead returns the right answer to a request, with extra header lines.
func goodHead(head, extra string) string {
	return switching + "Sec-WebSocket-Accept: " + carrier.AcceptFor(headerOf(head, "Sec-WebSocket-Key")) + "\r\n" + extra + "\r\n"
}

func TestDialAnswers(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-t0ken-of-the-agent"
	for _, tt := range []struct {
		name   string
		sub    string
		answer func(head string) string
		want   string              // in the error; empty if there is none
		status carrier.StatusError // if the error is one
	}{
		{name: "good", answer: func(h string) string { return goodHead(h, "") }},
		{name: "good after interim answers", answer: func(h string) string {
			return "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + goodHead(h, "")
		}},
		{name: "endless interim answers", want: "5 interim answers", answer: func(h string) string {
			return strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100) + goodHead(h, "")
		}},
		{name: "lists of tokens", answer: func(h string) string {
			return strings.Replace(goodHead(h, ""), "Connection: Upgrade", "Connection: keep-alive, upgrade", 1)
		}},
		{name: "subprotocol", sub: "adit.v1", answer: func(h string) string {
			return goodHead(h, "Sec-WebSocket-Protocol: "+headerOf(h, "Sec-WebSocket-Protocol")+"\r\n")
		}},
		{name: "subprotocol not chosen", sub: "adit.v1", want: `did not choose the subprotocol "adit.v1"`,
			answer: func(h string) string { return goodHead(h, "") }},
		{name: "another subprotocol", sub: "adit.v1", want: `chose the subprotocol "chat"`,
			answer: func(h string) string { return goodHead(h, "Sec-WebSocket-Protocol: chat\r\n") }},
		{name: "subprotocol not offered", want: `chose the subprotocol "chat"`,
			answer: func(h string) string { return goodHead(h, "Sec-WebSocket-Protocol: chat\r\n") }},
		{name: "extensions", want: "extensions",
			answer: func(h string) string { return goodHead(h, "Sec-WebSocket-Extensions: permessage-deflate\r\n") }},
		{name: "wrong accept key", want: "wrong Sec-WebSocket-Accept", answer: func(h string) string {
			return switching + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
		}},
		{name: "no accept key", want: "wrong Sec-WebSocket-Accept", answer: func(h string) string { return switching + "\r\n" }},
		{name: "no upgrade", want: `lacks "Upgrade: websocket"`, answer: func(h string) string {
			return strings.Replace(goodHead(h, ""), "Upgrade: websocket\r\n", "", 1)
		}},
		{name: "no connection", want: `lacks "Connection: Upgrade"`, answer: func(h string) string {
			return strings.Replace(goodHead(h, ""), "Connection: Upgrade\r\n", "", 1)
		}},
		{name: "not HTTP", want: "not HTTP", answer: func(h string) string { return "SSH-2.0-OpenSSH_9.9 " + secret + "\r\n" }},
		{name: "nothing", want: "without an answer", answer: func(h string) string { return "" }},
		{name: "endless head", want: "head is over 65536 bytes", answer: func(h string) string {
			return switching + strings.Repeat("X-Filler: "+strings.Repeat("x", 90)+"\r\n", 10000) + "\r\n"
		}},
		{name: "endless line", want: "head is over 65536 bytes", answer: func(h string) string {
			return switching + "X-Filler: " + strings.Repeat("x", 1<<20)
		}},
		{name: "middlebox", want: "server answered 200 OK: <html> Please log in </html>",
			status: carrier.StatusError{StatusCode: 200, Body: "<html> Please log in </html>"},
			answer: func(h string) string {
				return "HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n<html>\n\tPlease log in\n</html>"
			}},
		{name: "refusal", want: "server answered 503 Service Unavailable (draining): try later",
			status: carrier.StatusError{StatusCode: 503, RetryAfter: 7 * time.Second, Code: "draining", Body: "try later"},
			answer: func(h string) string {
				return "HTTP/1.1 503 x\r\nRetry-After: 7\r\nAdit-Error: draining\r\nConnection: close\r\n\r\ntry\x1b\x00 later\r\n"
			}},
		{name: "refusal with a nonsense Retry-After", want: "server answered 429", status: carrier.StatusError{StatusCode: 429},
			answer: func(h string) string { return "HTTP/1.1 429 x\r\nRetry-After: -5\r\nContent-Length: 0\r\n\r\n" }},
		{name: "secret sent back", want: "server answered 401 Unauthorized ([redacted]): GET /?access=[redacted] [redacted] and [redacted]",
			status: carrier.StatusError{StatusCode: 401, Code: "[redacted]",
				Body: "GET /?access=[redacted] [redacted] and [redacted]"},
			answer: func(h string) string {
				return "HTTP/1.1 401 x\r\nAdit-Error: " + secret + "\r\n\r\nGET /?access=" + secret + "2 " +
					headerOf(h, "Authorization") + " and " + secret
			}},
		{name: "secret cut off", want: "server answered 401",
			status: carrier.StatusError{StatusCode: 401, Body: strings.Repeat("x", 1012)},
			answer: func(h string) string {
				return "HTTP/1.1 401 x\r\n\r\n" + strings.Repeat("x", 1012) + secret
			}},
		{name: "endless body", want: "server answered 500",
			status: carrier.StatusError{StatusCode: 500, Body: strings.Repeat("x", 1024)},
			answer: func(h string) string { return "HTTP/1.1 500 x\r\n\r\n" + strings.Repeat("x", 1<<20) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := serveRaw(t, func(c net.Conn) {
				io.WriteString(c, tt.answer(readHead(c)))
				if tt.want == "" {
					io.Copy(io.Discard, c)
				}
			})
			d := carrier.Dialer{
				URL:         "ws://" + addr + "/?access=" + secret + "2",
				Header:      http.Header{"Authorization": {"Bearer " + secret}},
				Subprotocol: tt.sub,
			}
			c, err := d.Dial(t.Context())
			if tt.want == "" {
				if err != nil {
					t.Fatalf("Dial = %v, want no error", err)
				}
				c.Close()
				return
			}
			var de *carrier.DialError
			if !errors.As(err, &de) || de.Phase != carrier.PhaseUpgrade || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Dial = %v, want %q in an upgrade's error", err, tt.want)
			}
			if !strings.Contains(err.Error(), "carrier: upgrade at "+addr+": ") {
				t.Errorf("error %q does not name its phase", err)
			}
			if strings.Contains(err.Error(), secret[:4]) {
				t.Errorf("error %q has the secret", err)
			}
			var se *carrier.StatusError
			if errors.As(err, &se); tt.status.StatusCode != 0 && (se == nil || *se != tt.status) {
				t.Errorf("status is %+v, want %+v", se, tt.status)
			}
		})
	}
}

// What comes with the 101 belongs to the conn.
func TestDialBuffered(t *testing.T) {
	t.Parallel()
	addr := serveRaw(t, func(c net.Conn) {
		io.WriteString(c, goodHead(readHead(c), "")+"\x82\x05hello\x82\x03 th")
		io.Copy(io.Discard, c)
	})
	d := carrier.Dialer{URL: "ws://" + addr}
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, 8)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello th" {
		t.Errorf("read %q, %v; want what came behind the head", got, err)
	}
}

func TestDialURL(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ url, want string }{
		{"example.com/x", "must have the form"},
		{"ftp://example.com/", `scheme "ftp"`},
		{"ws://", "host is missing"},
		{"ws:///path", "host is missing"},
		{"ws://:80/", "host is missing"},
		{"ws://bob:hunter2@example.com/", "must not contain a user"},
		{"ws://hunter2@example.com/", "must not contain a user"},
		{"ws://bob:hunter2/x@example.com/", "malformed"},
		{"ws://bob:hunter2#x@example.com/", "malformed"},
		{"ws://bob:hunt%zzer2@example.com/", "must not contain a user"},
		{"ws://example.com/%zzhunter2", "malformed"},
		{"ws://example.com/\x7fhunter2", "malformed"},
		{"ws://bücher.example/", "must be in ASCII"},
		{"ws://b%C3%BCcher.example/", "must be in ASCII"},
		{"ws://example.com:0/", `port "0"`},
		{"ws://example.com:65536/", `port "65536"`},
		{"ws://example.com/#hunter2", "must not have a fragment"},
		{"ws://[::1/", "malformed"},
	} {
		d := carrier.Dialer{URL: tt.url, DialContext: func(context.Context, string, string) (net.Conn, error) {
			t.Errorf("%q: dialled", tt.url)
			return nil, errors.New("no")
		}}
		_, err := d.Dial(t.Context())
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: Dial = %v, want %q", tt.url, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunt") {
			t.Errorf("%q: error %q has the secret", tt.url, err)
		}
	}
}

func TestDialAddress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ url, addr, host string }{
		{"ws://example.com", "example.com:80", "example.com"},
		{"wss://example.com/x", "example.com:443", ""},
		{"ws://example.com:80/x", "example.com:80", "example.com"},
		{"ws://example.com:443/x", "example.com:443", "example.com:443"},
		{"http://EXAMPLE.com:8080?x", "EXAMPLE.com:8080", "EXAMPLE.com:8080"},
		{"ws://[::1]/", "[::1]:80", "[::1]"},
		{"ws://[::1]:81/", "[::1]:81", "[::1]:81"},
		{"ws://[fe80::1%25eth0]:81/", "[fe80::1%eth0]:81", "[fe80::1]:81"},
	} {
		a, b := net.Pipe()
		var addr string
		d := carrier.Dialer{URL: tt.url, DialContext: func(_ context.Context, network, to string) (net.Conn, error) {
			addr = network + " " + to
			return a, nil
		}}
		host := make(chan string, 1)
		go func() {
			if tt.host != "" {
				host <- headerOf(readHead(b), "Host")
			} else {
				host <- ""
			}
			b.Close()
		}()
		if _, err := d.Dial(t.Context()); err == nil {
			t.Errorf("%q: Dial succeeded", tt.url)
		}
		if want := "tcp " + tt.addr; addr != want {
			t.Errorf("%q: dialled %q, want %q", tt.url, addr, want)
		}
		if got := <-host; got != tt.host {
			t.Errorf("%q: Host %q, want %q", tt.url, got, tt.host)
		}
	}
}

func TestDialHeader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, sub, want string
		header          http.Header
	}{
		{name: "line end", header: http.Header{"Authorization": {"Bearer hunter2\r\nX: y"}}, want: `header "Authorization": its value has a control`},
		{name: "name", header: http.Header{"X Y": {"hunter2"}}, want: `header "X Y": not a header name`},
		{name: "host", header: http.Header{"host": {"hunter2"}}, want: `header "host": set by the carrier`},
		{name: "key", header: http.Header{"Sec-WebSocket-Key": {"hunter2"}}, want: `set by the carrier`},
		{name: "subprotocol", sub: "a b", want: `subprotocol "a b"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := carrier.Dialer{URL: "ws://127.0.0.1:1", Header: tt.header, Subprotocol: tt.sub}
			_, err := d.Dial(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Dial = %v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %q has the value", err)
			}
		})
	}
}

// Each phase ends with ctx, and says which it was.
func TestDialSlow(t *testing.T) {
	t.Parallel()
	silent := serveRaw(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	hang := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	// A dial that ends in time, so that the time is up in the next phase.
	dial := func(_ context.Context, network, addr string) (net.Conn, error) { return net.Dial(network, addr) }
	for _, tt := range []struct {
		name string
		d    carrier.Dialer
		want string
	}{
		{"dial", carrier.Dialer{URL: "wss://example.com/", DialContext: hang}, "carrier: dial tcp example.com:443: "},
		{"TLS", carrier.Dialer{URL: "wss://" + silent + "/", DialContext: dial}, "carrier: tls handshake with 127.0.0.1: "},
		{"upgrade", carrier.Dialer{URL: "ws://" + silent + "/", DialContext: dial}, "carrier: upgrade at " + silent + ": "},
		{"head", carrier.Dialer{URL: "ws://" + serveRaw(t, func(c net.Conn) {
			io.WriteString(c, switching)
			io.Copy(io.Discard, c)
		}), DialContext: dial}, "carrier: upgrade at "},
	} {
		for _, how := range []string{"deadline", "cancel", "timeout"} {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				t.Parallel()
				d := tt.d
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				want := context.DeadlineExceeded
				switch how {
				case "deadline":
					ctx, cancel = context.WithTimeout(ctx, 30*time.Millisecond)
					defer cancel()
				case "cancel":
					want = context.Canceled
					time.AfterFunc(30*time.Millisecond, cancel)
				case "timeout":
					d.Timeout = 30 * time.Millisecond
				}
				_, err := d.Dial(ctx)
				if !errors.Is(err, want) || !strings.HasPrefix(err.Error(), tt.want) {
					t.Errorf("Dial = %v, want %q and %v", err, tt.want, want)
				}
			})
		}
	}
}

func TestDialTLS(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = discard
	srv.StartTLS()
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	for _, tt := range []struct {
		name   string
		config *tls.Config
		want   string
	}{
		{"unknown authority", nil, "tls handshake with 127.0.0.1: the certificate is signed by an unknown authority, \"Acme Co\""},
		{"wrong name", &tls.Config{RootCAs: pool, ServerName: "wrong.test"}, "tls handshake with wrong.test: tls: failed to verify certificate: x509: certificate is valid for"},
		{"right", &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10}, "server answered 404"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := carrier.Dialer{URL: "wss://" + srv.Listener.Addr().String(), TLS: tt.config}
			if _, err := d.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Dial = %v, want %q", err, tt.want)
			}
			if tt.config != nil && tt.config.NextProtos != nil {
				t.Error("the caller's configuration was changed")
			}
		})
	}
	t.Run("old version", func(t *testing.T) {
		old := httptest.NewUnstartedServer(http.NotFoundHandler())
		old.Config.ErrorLog = discard
		old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		old.StartTLS()
		defer old.Close()
		d := carrier.Dialer{URL: "wss://" + old.Listener.Addr().String(), TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10}}
		if _, err := d.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "tls handshake") || !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("Dial = %v, want a refusal of the version", err)
		}
	})
}
