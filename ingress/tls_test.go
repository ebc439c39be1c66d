package ingress

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"adit/internal/testca"
	"adit/policy"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

func TestTLSTerminates(t *testing.T) {
	t.Parallel()
	site := echoSite(t)
	for _, trusted := range []bool{false, true} {
		d := openDoor(t, names{"web.example.com": {Tunnel: site}}, func(_ *TLSOptions, o *HTTPOptions) {
			if trusted {
				o.TrustedProxies = loopbackPrefixes
			}
		})
		want := "POST web.example.com /a?b abc|127.0.0.1|https|web.example.com|for=127.0.0.1;proto=https;host=web.example.com|"
		if trusted {
			want = "POST web.example.com /a?b abc|192.0.2.1, 127.0.0.1|http|public.example|for=192.0.2.1, for=127.0.0.1;proto=https;host=web.example.com|"
		}
		for _, proto := range []string{"http/1.1", "h2"} {
			c := d.visitor(nil, proto)
			req, err := http.NewRequest("POST", "https://web.example.com/a?b", strings.NewReader("abc"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Forwarded-For", "192.0.2.1")
			req.Header.Set("X-Forwarded-Proto", "http")
			req.Header.Set("X-Forwarded-Host", "public.example")
			req.Header.Set("Forwarded", "for=192.0.2.1")
			req.Header.Set("X_Forwarded_For", "192.0.2.2")
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(got) != want {
				t.Errorf("%s, trusted: %v: the upstream was told %q, %v, want %q", proto, trusted, got, err, want)
			}
			if h2 := resp.ProtoMajor == 2; h2 != (proto == "h2") {
				t.Errorf("%s: got an answer in %s", proto, resp.Proto)
			}
		}
	}
}

func TestTLSByPathAndAddress(t *testing.T) {
	t.Parallel()
	d := openDoor(t, names{"/web": {Tunnel: echoSite(t)}}, nil)
	for _, url := range []string{"https://example.com/web/x", "https://127.0.0.1/web/x"} {
		resp, err := d.visitor(nil, "http/1.1", "h2").Get(url)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(string(b), " /x ") {
			t.Errorf("%s: got %d %s", url, resp.StatusCode, b)
		}
	}
}

func TestTLSPassesThrough(t *testing.T) {
	t.Parallel()
	own, ownRoots := newCertificates(t, "db.example.com", "db.example.org")
	upstream := &tls.Config{GetCertificate: own.Certificate}
	for _, tt := range []struct {
		name string
		slow bool
	}{{"db.example.com", false}, {"db.example.org", false}, {"DB.Example.Org", true}} {
		m, l := tunneltest.NewMemory("db")
		defer m.Close()
		to := Target{Tunnel: m, Service: "pg", TLS: true}
		d := openDoor(t, names{"db.example.com": to, "db.example.org": to}, nil)
		raw := dial(t, d.addr)
		var under net.Conn = raw.Conn
		if tt.slow {
			under = slowConn{under}
		}
		config := d.config(tt.name)
		config.RootCAs = ownRoots
		c := tls.Client(under, config)
		shaken := make(chan error, 1)
		go func() { shaken <- c.Handshake() }()
		up, info := acceptTLS(t, l, upstream)
		if err := wait(t, "the handshake", shaken); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		want := tunnel.StreamInfo{Service: "pg", Protocol: "tls", Host: strings.ToLower(tt.name),
			Visitor: addrPort(raw.LocalAddr()), Local: addrPort(raw.RemoteAddr())}
		if info != want {
			t.Errorf("%s: the agent was told %+v, want %+v", tt.name, info, want)
		}
		go io.WriteString(c, "question")
		got := make([]byte, 8)
		if _, err := io.ReadFull(up, got); err != nil || string(got) != "question" {
			t.Errorf("%s: the upstream got %q, %v", tt.name, got, err)
		}
		go func() {
			io.WriteString(up, "answer")
			up.Close()
		}()
		if b, err := io.ReadAll(c); err != nil || string(b) != "answer" {
			t.Errorf("%s: the visitor got %q, %v", tt.name, b, err)
		}
		d.stop()
	}
}

func TestTLSRefuses(t *testing.T) {
	t.Parallel()
	m, _ := tunneltest.NewMemory("db")
	defer m.Close()
	shut, err := policy.NewGuard("db", policy.Policy{DenyIP: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	n := names{
		"plain.example.org": {Tunnel: m},
		"away.example.org":  {TLS: true},
		"shut.example.org":  {TLS: true, Tunnel: m, Policy: shut},
	}
	d := openDoor(t, n, nil)
	bare := openDoor(t, n, func(o *TLSOptions, _ *HTTPOptions) { o.Certificates = nil })
	hello := func(name string) []byte {
		return helloOf(t, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	}
	broken := hello("web.example.com")
	broken[5+4+2+32] = 33 // length of the session ID
	for _, tt := range []struct {
		name string
		d    *door
		send []byte
		want byte
	}{
		{"unknown name", d, hello("example.org"), 112},
		{"name without certificate", d, hello("plain.example.org"), 112},
		{"two labels under the wildcard", d, hello("a.b.example.com"), 112},
		{"nothing to show", bare, hello("web.example.com"), 112},
		{"nothing to show to who names nobody", bare, hello(""), 112},
		{"agent offline", d, hello("away.example.org"), 80},
		{"kept out by a policy", d, hello("shut.example.org"), 49},
		{"malformed", d, broken, 50},
		{"too long", d, []byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff}, 22},
		{"end in the middle", d, hello("web.example.com")[:100], 0},
		{"ServerHello", d, []byte{22, 3, 1, 0, 4, 2, 0, 0, 0}, 10},
		{"SSH", d, []byte("SSH-2.0-x\r\n"), 0},
		{"PROXY header", d, []byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"), 0},
		{"PROXY header in binary", d, []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"), 0},
		{"end", d, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, tt.d.addr)
			c.Conn.Write(tt.send)
			c.Conn.(*net.TCPConn).CloseWrite()
			got, err := io.ReadAll(c.Conn)
			alert := byte(0)
			if len(got) == 7 && bytes.Equal(got[:6], []byte{21, 3, 3, 0, 2, 2}) {
				alert = got[6]
			}
			if isTimeout(err) || alert != tt.want || alert == 0 && len(got) > 0 {
				t.Errorf("got %q, %v, want the alert %d", got, err, tt.want)
			}
		})
	}
}

func TestTLSOldVersionsAndNames(t *testing.T) {
	t.Parallel()
	d := openDoor(t, names{"web.example.com": {Tunnel: echoSite(t)}}, nil)
	c := dial(t, d.addr)
	config := d.config("web.example.com")
	config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if err := tls.Client(c.Conn, config).HandshakeContext(t.Context()); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.1: got %v, want an alert about the version", err)
	}
	// Who names nobody is shown the certificate there is.
	plain := d.dial(d.config(""))
	plain.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
	if resp, body := plain.response("GET"); resp.StatusCode != 200 {
		t.Errorf("without a server name: got %d %s", resp.StatusCode, body)
	}
}

func TestHTTPAtTheTLSPort(t *testing.T) {
	t.Parallel()
	d := openDoor(t, names{}, nil)
	for _, send := range []string{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 30000), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"} {
		c := dial(t, d.addr)
		c.send("%s", send)
		if resp, body := c.response("GET"); resp.StatusCode != 400 || resp.Header.Get("Adit-Error") != "tls-required" {
			t.Errorf("%.4s: got %d %s", send, resp.StatusCode, body)
		}
		c.closed()
	}
}

// What the handshake was for decides what can be asked for on the conn.
func TestMisdirected(t *testing.T) {
	t.Parallel()
	m, _ := tunneltest.NewMemory("db")
	defer m.Close()
	site := echoSite(t)
	d := openDoor(t, names{
		"web.example.com": {Tunnel: site}, "other.example.com": {Tunnel: site}, "www.example.org": {Tunnel: site},
		"db.example.com": {Tunnel: m, TLS: true}, "/web": {Tunnel: site}, "/db": {Tunnel: m, TLS: true},
	}, nil)
	for _, tt := range []struct {
		asked, host, path string
		want              int
	}{
		{"web.example.com", "web.example.com", "/", 200},
		{"web.example.com", "WEB.example.com.", "/", 200},
		{"web.example.com", "web.example.com:8443", "/", 200},
		{"web.example.com", "other.example.com", "/", 200}, // the same certificate
		{"web.example.com", "example.com", "/web/", 200},
		{"web.example.com", "www.example.org", "/", 421},
		{"web.example.com", "db.example.com", "/", 421}, // its upstream ends TLS
		{"web.example.com", "DB.example.com.:443", "/", 421},
		{"web.example.com", "example.com", "/db/", 421},
		{"web.example.com", "192.0.2.1", "/web/", 421},
		{"web.example.com", "127.0.0.1", "/web/", 200}, // the certificate is for that too
		{"web.example.com", "[::1]", "/web/", 421},
		{"web.example.com", "localhost", "/web/", 421},
		{"", "web.example.com", "/", 200},
		{"", "127.0.0.1", "/web/", 200},
		{"", "192.0.2.1", "/web/", 200}, // who connects by address says so
		{"", "[2001:db8::1]:443", "/web/", 200},
		{"", "www.example.org", "/", 421},
		{"", "db.example.com", "/", 421},
	} {
		c := d.dial(d.config(tt.asked))
		c.send("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", tt.path, tt.host)
		resp, body := c.response("GET")
		if resp.StatusCode != tt.want || tt.want == 421 && resp.Header.Get("Adit-Error") != "misdirected" {
			t.Errorf("HTTP/1.1: handshake for %q, request for %q: got %d %s, want %d", tt.asked, tt.host, resp.StatusCode, body, tt.want)
		}
		c.Conn.Close()

		v := d.visitor(d.config(tt.asked), "h2")
		req, err := http.NewRequest("GET", "https://127.0.0.1"+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		h2, err := v.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(h2.Body)
		h2.Body.Close()
		if h2.StatusCode != tt.want {
			t.Errorf("HTTP/2: handshake for %q, request for %q: got %d %s, want %d", tt.asked, tt.host, h2.StatusCode, b, tt.want)
		}
	}
}

// On one conn, each request is looked at.
func TestMisdirectedLater(t *testing.T) {
	t.Parallel()
	d := openDoor(t, names{"web.example.com": {Tunnel: echoSite(t)}}, nil)
	c := d.dial(d.config("web.example.com"))
	for i, host := range []string{"web.example.com", "www.example.org", "web.example.com"} {
		c.send("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		resp, _ := c.response("GET")
		if want := []int{200, 421, 200}[i]; resp.StatusCode != want {
			t.Errorf("request %d: got %d, want %d", i, resp.StatusCode, want)
		}
	}
}

func TestTLSShutdown(t *testing.T) {
	t.Parallel()
	m, l := tunneltest.NewMemory("db")
	defer m.Close()
	d := openDoor(t, names{"db.example.com": {Tunnel: m, TLS: true}}, nil)
	idle := dial(t, d.addr)
	c := dial(t, d.addr)
	c.Conn.Write(helloOf(t, d.config("db.example.com")))
	s := acceptStream(t, l)
	over := make(chan error, 1)
	go func() { over <- d.tls.Shutdown(context.Background()) }()
	if b, err := io.ReadAll(idle.Conn); len(b) > 0 || isTimeout(err) {
		t.Errorf("who has not begun got %q, %v, want the end", b, err)
	}
	if _, err := net.Dial("tcp", d.addr); err == nil {
		t.Error("the port is still open")
	}
	select {
	case err := <-over:
		t.Fatalf("Shutdown returned %v while a visitor is there", err)
	default:
	}
	s.Close()
	c.Conn.Close()
	if err := wait(t, "Shutdown", over); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// When its time is over, Shutdown resets who is left.
func TestTLSShutdownEnds(t *testing.T) {
	t.Parallel()
	m, l := tunneltest.NewMemory("db")
	defer m.Close()
	d := openDoor(t, names{"db.example.com": {Tunnel: m, TLS: true}}, nil)
	c := dial(t, d.addr)
	c.Conn.Write(helloOf(t, d.config("db.example.com")))
	s := acceptStream(t, l)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.tls.Shutdown(ctx); err != context.Canceled {
		t.Errorf("Shutdown: got %v, want the context's error", err)
	}
	if _, err := io.Copy(io.Discard, s); err == nil {
		t.Error("the agent saw a clean end")
	}
}

// A response that breaks off does not end as if it were whole.
func TestTLSAbort(t *testing.T) {
	t.Parallel()
	d := openDoor(t, names{"web.example.com": {Tunnel: startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "part")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))}}, nil)
	c := d.dial(d.config("web.example.com"))
	c.send("GET / HTTP/1.0\r\nHost: web.example.com\r\n\r\n")
	b, err := io.ReadAll(c.r)
	if !strings.HasSuffix(string(b), "part") || err == nil || isTimeout(err) {
		t.Errorf("got %q, %v, want an error behind the first part", b, err)
	}
}

// A visitor may have been asked for a certificate; who looks at it sees what was
// shown in this very handshake.
func TestTLSAsksForCertificates(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	mine := ca.Issue(t, testca.Client("me"))
	shown := make(chan int, 1)
	d := openDoor(t, names{}, func(o *TLSOptions, h *HTTPOptions) {
		o.Ask = func(name string) *x509.CertPool {
			if name == "closed.example.com" {
				return ca.Pool
			}
			return nil
		}
		h.Own = func(r *http.Request) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { shown <- len(r.TLS.PeerCertificates) })
		}
	})
	cache := tls.NewLRUClientSessionCache(8)
	for _, proto := range []string{"http/1.1", "h2"} {
		for i, tt := range []struct {
			name string
			want int
		}{{"open.example.com", 0}, {"closed.example.com", 1}, {"closed.example.com", 1}, {"open.example.com", 0}} {
			config := d.config(tt.name)
			config.ClientSessionCache = cache
			config.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if err := info.SupportsCertificate(&mine); err != nil {
					return nil, err
				}
				return &mine, nil
			}
			resp, err := d.visitor(config, proto).Get("https://door/_adit/who")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := <-shown; got != tt.want {
				t.Errorf("%s, visit %d of %s: %d certificates were shown, want %d", proto, i, tt.name, got, tt.want)
			}
			if tt.want > 0 && resp.TLS.DidResume {
				t.Errorf("%s, visit %d of %s: the session was resumed", proto, i, tt.name)
			}
		}
	}
}
