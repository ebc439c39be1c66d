package ingress

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Many visitors who never finish what they began, at each point where they can
// stop, do not keep a good one waiting.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	each := 500
	if testing.Short() {
		each = 100
	}
	d := openDoor(t, names{"web.example.com": {Tunnel: echoSite(t)}}, nil)
	hello := helloOf(t, d.config("web.example.com"))
	config := d.config("web.example.com")
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1) // the test's own CPU is not what is measured
	for _, begin := range []func(net.Conn){
		func(net.Conn) {},
		func(c net.Conn) { c.Write(hello[:1]) },
		func(c net.Conn) { c.Write(hello[:len(hello)-1]) },
		func(c net.Conn) { c.Write(hello) }, // and no answer to the server's
		func(c net.Conn) {
			tc := tls.Client(c, config)
			if tc.Handshake() == nil {
				io.WriteString(tc, "GET / HTTP/1.1\r\nHost: web")
			}
		},
	} {
		for range each {
			c, err := net.Dial("tcp", d.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			begin(c)
		}
	}
	for range 5 {
		start := time.Now()
		resp, err := d.visitor(nil, "http/1.1").Get("https://web.example.com/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if took := time.Since(start); resp.StatusCode != 200 || took > patience/2 {
			t.Errorf("got %d after %v, want 200 at once", resp.StatusCode, took)
		}
	}
}

// One more than there may be ends the oldest, and nobody else.
func TestMaxHandshakes(t *testing.T) {
	t.Parallel()
	d := openDoor(t, names{"web.example.com": {Tunnel: echoSite(t)}}, func(o *TLSOptions, _ *HTTPOptions) { o.MaxHandshakes = 3 })
	var idle []*rawConn
	for range 3 {
		idle = append(idle, dial(t, d.addr))
		// One after the other: the order is that of the server's Accept.
		for n := len(idle); ; time.Sleep(time.Millisecond) {
			d.tls.mu.Lock()
			have := d.tls.shaking.Len()
			d.tls.mu.Unlock()
			if have == n {
				break
			}
		}
	}
	c := d.dial(d.config("web.example.com"))
	c.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
	if resp, _ := c.response("GET"); resp.StatusCode != 200 {
		t.Errorf("got %d, want 200", resp.StatusCode)
	}
	if _, err := idle[0].Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the oldest: got %v, want that it is hung up on", err)
	}
	for _, c := range idle[1:] {
		c.Conn.Write(helloOf(t, d.config("web.example.com")))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Errorf("a younger one: %v", err)
		}
	}
}

// Handshakes have a limit in time, at each point.
func TestHandshakeTimeout(t *testing.T) {
	t.Parallel()
	d := openDoor(t, names{}, func(o *TLSOptions, _ *HTTPOptions) { o.HandshakeTimeout = 50 * time.Millisecond })
	hello := helloOf(t, d.config("web.example.com"))
	for name, send := range map[string][]byte{"nothing": nil, "a part": hello[:50], "the first message": hello} {
		c := dial(t, d.addr)
		c.Conn.Write(send)
		if _, err := io.Copy(io.Discard, c.Conn); isTimeout(err) {
			t.Errorf("%s: the conn stays open", name)
		}
	}
}

// What was agreed on by ALPN is what is spoken.
func TestALPN(t *testing.T) {
	t.Parallel()
	d := openDoor(t, names{"web.example.com": {Tunnel: echoSite(t)}}, func(_ *TLSOptions, o *HTTPOptions) { o.H2C = true })
	const request = "GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n"
	const h2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

	c := d.dial(d.config("web.example.com", "h2"))
	c.send(request)
	if b, err := io.ReadAll(c.r); strings.Contains(string(b), "HTTP/1.1") || isTimeout(err) {
		t.Errorf("HTTP/1.1 after h2 was agreed on: got %q, %v, want no answer to it", b, err)
	}
	for _, protocols := range [][]string{{"http/1.1"}, nil} {
		c = d.dial(d.config("web.example.com", protocols...))
		c.send(h2)
		if resp, _ := c.response("GET"); resp.StatusCode != 505 {
			t.Errorf("HTTP/2 after %q was agreed on: got %d, want 505", protocols, resp.StatusCode)
		}
		c.closed()
	}
	raw := dial(t, d.addr)
	err := tls.Client(raw.Conn, d.config("web.example.com", "acme-tls/1", "ssh")).HandshakeContext(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("unknown protocols: got %v, want the alert for that", err)
	}
	// A request to go on in h2c is not passed on (it could be smuggled in).
	c = d.dial(d.config("web.example.com"))
	c.send("GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
	if resp, body := c.response("GET"); resp.StatusCode != 200 || !strings.HasPrefix(body, "GET ") {
		t.Errorf("upgrade to h2c: got %d %s, want an answer in HTTP/1.1", resp.StatusCode, body)
	}
}

func TestH2C(t *testing.T) {
	t.Parallel()
	site := echoSite(t)
	_, open := startHTTP(t, HTTPOptions{Router: always(site), H2C: true})
	_, shut := startHTTP(t, HTTPOptions{Router: always(site)})
	client := func(addr string) *http.Client {
		d := &door{t: t, addr: addr}
		return d.visitor(nil, "h2c")
	}
	c := client(open)
	for range 2 {
		resp, err := c.Post("http://web/a", "text/plain", strings.NewReader("abc"))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := "POST web /a abc|127.0.0.1|http|web|for=127.0.0.1;proto=http;host=web|"; resp.ProtoMajor != 2 || string(b) != want {
			t.Errorf("got %s %q, want %q", resp.Proto, b, want)
		}
	}
	// Beside it the port speaks HTTP/1.1.
	raw := dial(t, open)
	raw.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	if resp, _ := raw.response("GET"); resp.StatusCode != 200 {
		t.Errorf("HTTP/1.1: got %d", resp.StatusCode)
	}
	raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	if resp, _ := raw.response("GET"); resp.StatusCode != 505 {
		t.Errorf("HTTP/2 in the middle of a conn: got %d, want 505", resp.StatusCode)
	}
	if resp, err := client(shut).Get("http://web/"); err == nil {
		t.Errorf("where it is not told to: got %s", resp.Status)
	}
}

var loopbackPrefixes = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// Visitors without TLS are sent to where there is.
func TestSecurePort(t *testing.T) {
	t.Parallel()
	site := echoSite(t)
	asked := false
	opts := HTTPOptions{Router: names{"web.example.com": {Tunnel: site}}, SecurePort: 443, H2C: true, Own: func(*http.Request) http.Handler {
		asked = true
		return nil
	}}
	_, plain := startHTTP(t, opts)
	opts.SecurePort, opts.TrustedProxies = 8443, loopbackPrefixes
	_, trusting := startHTTP(t, opts)
	for _, tt := range []struct {
		addr, send string
		status     int
		location   string
	}{
		{plain, "GET /a?b=c HTTP/1.1\r\nHost: web.example.com\r\n\r\n", 308, "https://web.example.com/a?b=c"},
		{plain, "POST / HTTP/1.1\r\nHost: web.example.com:8080\r\nContent-Length: 3\r\n\r\nabc", 308, "https://web.example.com/"},
		{plain, "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 308, "https://[::1]/"},
		{plain, "GET / HTTP/1.1\r\nHost: web.example.com\r\nX-Forwarded-Proto: https\r\n\r\n", 308, "https://web.example.com/"},
		{plain, "GET //evil.example HTTP/1.1\r\nHost: web.example.com\r\n\r\n", 308, "https://web.example.com//evil.example"},
		{plain, "GET http://web.example.com/x HTTP/1.1\r\nHost: web.example.com\r\n\r\n", 308, "https://web.example.com/x"},
		{plain, "GET /_adit/v1 HTTP/1.1\r\nHost: web.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400, ""},
		{plain, "OPTIONS * HTTP/1.1\r\nHost: web.example.com\r\n\r\n", 400, ""},
		{plain, "GET / HTTP/1.0\r\n\r\n", 400, ""},
		{trusting, "GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n", 308, "https://web.example.com:8443/"},
		{trusting, "GET / HTTP/1.1\r\nHost: web.example.com\r\nX-Forwarded-Proto: https\r\n\r\n", 200, ""},
	} {
		c := dial(t, tt.addr)
		c.send("%s", tt.send)
		resp, _ := c.response("GET")
		if resp.StatusCode != tt.status || resp.Header.Get("Location") != tt.location {
			t.Errorf("%q: got %d %q, want %d %q", tt.send, resp.StatusCode, resp.Header.Get("Location"), tt.status, tt.location)
		}
		if tt.status == 400 && resp.Header.Get("Adit-Error") != "tls-required" {
			t.Errorf("%q: got the code %q, want tls-required", tt.send, resp.Header.Get("Adit-Error"))
		}
	}
	if asked {
		t.Error("an agent without TLS was not refused")
	}
	resp, err := (&door{t: t, addr: plain}).visitor(nil, "h2c").Get("http://web.example.com/x?y")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Location"); resp.StatusCode != 308 || got != "https://web.example.com/x?y" {
		t.Errorf("HTTP/2: got %d %q", resp.StatusCode, got)
	}
}
