package doctor

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/testca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hostname = "tunnel.example.com"

// newHandler returns the server's side, which lets everybody in.
func newHandler(t *testing.T) *Handler {
	h := NewHandler(HandlerOptions{Version: "1.2.3", Admit: func(netip.Addr) error { return nil }})
	t.Cleanup(func() { h.Close() })
	return h
}

// serve serves h with TLS if cert is not nil, and returns its address.
func serve(t *testing.T, h http.Handler, cert *tls.Certificate) string {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	if cert != nil {
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func trusting(authorities ...*testca.Authority) *tls.Config {
	pool := x509.NewCertPool()
	for _, a := range authorities {
		pool.AddCert(a.Cert)
	}
	return &tls.Config{RootCAs: pool, ServerName: hostname}
}

// codes returns those of the findings.
func codes(r *Report) string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, string(f.Severity)+" "+f.Code)
	}
	return strings.Join(all, ", ")
}

func TestExamine(t *testing.T) {
	t.Parallel()
	ours, theirs := testca.New(t), testca.New(t)
	fresh := func(c *x509.Certificate) {
		testca.Server(hostname)(c)
		c.NotAfter = time.Now().Add(90 * 24 * time.Hour)
	}
	good := ours.Issue(t, fresh)
	old := ours.Issue(t, func(c *x509.Certificate) {
		testca.Server(hostname)(c)
		c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	})
	foreign := theirs.Issue(t, fresh)
	// resigned serves with a certificate of its own what the server says.
	resigned := func(t *testing.T, cert tls.Certificate) string {
		to := &url.URL{Scheme: "https", Host: serve(t, newHandler(t), &good)}
		p := &httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
			Transport: &http.Transport{TLSClientConfig: trusting(ours), DisableKeepAlives: true},
			ErrorLog:  log.New(io.Discard, "", 0),
		}
		return serve(t, p, &cert)
	}
	answer := func(status int, header, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if name, value, ok := strings.Cut(header, ": "); ok {
				w.Header().Set(name, value)
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
		})
	}
	for _, tt := range []struct {
		name   string
		server func(t *testing.T) string // its URL
		tls    *tls.Config
		want   string // codes of the findings
		says   string // in the first
	}{
		{name: "all well", server: func(t *testing.T) string { return "ws://" + serve(t, newHandler(t), nil) }},
		{name: "all well with TLS", server: func(t *testing.T) string { return "wss://" + serve(t, newHandler(t), &good) }, tls: trusting(ours)},
		{name: "nobody listens", server: func(t *testing.T) string {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			return "ws://" + ln.Addr().String()
		}, want: "failed unreachable", says: "connection refused"},
		{name: "no such name", server: func(t *testing.T) string { return "ws://nobody.invalid" }, want: "failed dns", says: "nobody.invalid"},
		{name: "authority unknown", server: func(t *testing.T) string { return "wss://" + serve(t, newHandler(t), &good) },
			tls: trusting(theirs), want: "failed authority", says: "server's own certificate"},
		{name: "re-signed", server: func(t *testing.T) string { return "wss://" + resigned(t, foreign) },
			tls: trusting(ours), want: "failed tls-resigned", says: issuer(theirs.Cert)},
		{name: "re-signed and trusted", server: func(t *testing.T) string { return "wss://" + resigned(t, foreign) },
			tls: trusting(ours, theirs), want: "warning tls-resigned", says: issuer(theirs.Cert)},
		{name: "expired", server: func(t *testing.T) string { return "wss://" + serve(t, newHandler(t), &old) },
			tls: trusting(ours), want: "failed certificate-expired", says: "renew"},
		{name: "another name", server: func(t *testing.T) string { return "wss://" + serve(t, newHandler(t), &good) },
			tls: &tls.Config{RootCAs: trusting(ours).RootCAs, ServerName: "other.example.com"}, want: "failed certificate", says: "other.example.com"},
		{name: "no TLS", server: func(t *testing.T) string { return "wss://" + serve(t, newHandler(t), nil) }, want: "failed no-tls"},
		{name: "portal", server: func(t *testing.T) string { return "ws://" + serve(t, answer(200, "", "<HTML>pay"), nil) }, want: "failed not-adit", says: "web page"},
		{name: "redirect", server: func(t *testing.T) string {
			return "ws://" + serve(t, answer(302, "Location: http://login.test/", ""), nil)
		}, want: "failed not-adit", says: "http://login.test/"},
		{name: "server down", server: func(t *testing.T) string { return "ws://" + serve(t, answer(502, "", ""), nil) }, want: "failed server-down"},
		{name: "turned off", server: func(t *testing.T) string { return "ws://" + serve(t, answer(404, "Adit-Error: not-found", ""), nil) }, want: "failed no-doctor"},
		{name: "no WebSockets", server: func(t *testing.T) string {
			h := newHandler(t)
			return "ws://" + serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("Upgrade")
				r.Header.Del("Connection")
				h.ServeHTTP(w, r)
			}), nil)
		}, want: "warning upgrade-stripped", says: "takes the Upgrade out"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := Examine(t.Context(), Options{Server: tt.server(t), TLS: tt.tls, held: 50 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if got := codes(r); got != tt.want {
				t.Errorf("findings are %q, want %q: %+v", got, tt.want, r.Findings)
			}
			if len(r.Findings) > 0 && !strings.Contains(r.Findings[0].Culprit+r.Findings[0].Remedy, tt.says) {
				t.Errorf("it says %q, want %q", r.Findings[0].Culprit, tt.says)
			}
			if tt.want == "" && (len(r.Carriers) != 3 || r.Carriers[2].Up <= 0 || r.Carriers[2].Down <= 0 || r.Carriers[0].RoundTrip <= 0 || r.Version != "1.2.3") {
				t.Errorf("report is %+v, want a measured carrier", r)
			}
		})
	}
}

func TestExamineURL(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"", "tunnel.example.com", "ftp://x", "ws://"} {
		if _, err := Examine(t.Context(), Options{Server: u}); err == nil {
			t.Errorf("Examine of %q succeeded", u)
		}
	}
}

// The server gives back no more than it was sent.
func TestOrders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		sent  []byte
		want  string
		fails bool
	}{
		{name: "echo", sent: append(appendOrder(nil, orderEcho, 2), "hi"...), want: "hi"},
		{name: "take", sent: append(appendOrder(nil, orderTake, 2), "hi"...), want: "."},
		{name: "take and give", sent: append(append(appendOrder(nil, orderTake, 2), "hi"...), appendOrder(nil, orderGive, 2)...), want: ".hi"},
		{name: "give before take", sent: appendOrder(nil, orderGive, 1), fails: true},
		{name: "give what was echoed", sent: append(append(appendOrder(nil, orderEcho, 2), "hi"...), appendOrder(nil, orderGive, 1)...), want: "hi", fails: true},
		{name: "too long", sent: appendOrder(nil, orderEcho, maxOrder+1), fails: true},
		{name: "unknown", sent: appendOrder(nil, 'x', 0), fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			far, near := net.Pipe()
			done := make(chan error, 1)
			go func() {
				defer far.Close()
				done <- serveOrders(far, time.Now())
			}()
			go near.Write(tt.sent)
			got := make([]byte, len(tt.want))
			if _, err := io.ReadFull(near, got); err != nil || string(got) != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
			if !tt.fails {
				near.Close()
			}
			if err := <-done; errors.Is(err, errOrder) != tt.fails {
				t.Errorf("it ended with %v, want a refusal: %v", err, tt.fails)
			}
			near.Close()
		})
	}
}

// A carrier has its share of time, and no more.
func TestOrdersEnd(t *testing.T) {
	t.Parallel()
	far, near := net.Pipe()
	defer near.Close()
	if err := serveOrders(far, time.Now().Add(-echoLife)); err != nil {
		t.Errorf("serveOrders = %v after its time, want nil", err)
	}
}

func FuzzOrders(f *testing.F) {
	f.Add(append(appendOrder(nil, orderTake, 2), "hi"...))
	f.Add(appendOrder(nil, orderGive, 70000))
	f.Fuzz(func(t *testing.T, sent []byte) {
		far, near := net.Pipe()
		done := make(chan struct{})
		go func() {
			serveOrders(far, time.Now())
			far.Close()
			close(done)
		}()
		got := make(chan int64, 1)
		go func() {
			n, _ := io.Copy(io.Discard, near)
			got <- n
		}()
		near.Write(sent)
		near.Close()
		<-done
		if n := <-got; n > int64(len(sent)) {
			t.Errorf("%d bytes came back for %d", n, len(sent))
		}
	})
}

func TestHandlerBounds(t *testing.T) {
	t.Parallel()
	get := func(h *Handler, method, target, body string) *http.Response {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		h.ServeHTTP(deadlines{w}, r)
		return w.Result()
	}
	t.Run("rate", func(t *testing.T) {
		h := NewHandler(HandlerOptions{Admit: func(netip.Addr) error { return errors.New("no") }})
		if got := get(h, "GET", Path, ""); got.StatusCode != 429 || got.Header.Get("Retry-After") == "" || got.Header.Get("Adit-Error") != "rate-limited" {
			t.Errorf("answer is %d %v, want 429", got.StatusCode, got.Header)
		}
	})
	t.Run("at once", func(t *testing.T) {
		h := newHandler(t)
		from := netip.MustParseAddr("192.0.2.1") // httptest's
		for range maxOfOne {
			if err := h.enter(from); err != nil {
				t.Fatal(err)
			}
		}
		if got := get(h, "GET", Path, ""); got.StatusCode != 429 {
			t.Errorf("answer is %d, want 429", got.StatusCode)
		}
		h.leave(from)
		if got := get(h, "GET", Path, ""); got.StatusCode != 200 {
			t.Errorf("answer is %d, want 200", got.StatusCode)
		}
	})
	for _, tt := range []struct {
		method, target, body string
		status               int
	}{
		{"GET", Path, "", 200},
		{"POST", Path, "", 404},
		{"GET", Path + "/nothing", "", 404},
		{"POST", bodyPath, "abc", 200},
		{"POST", bodyPath, strings.Repeat("x", maxBody+1), 413},
		{"POST", oncePath, "", 400},
		{"POST", oncePath + "?token=" + strings.Repeat("x", maxToken+1), "", 400},
		{"GET", connectPath, "", 426},
	} {
		if got := get(newHandler(t), tt.method, tt.target, tt.body); got.StatusCode != tt.status {
			t.Errorf("%s %.60s: %d, want %d", tt.method, tt.target, got.StatusCode, tt.status)
		}
	}
}

// deadlines is a ResponseWriter that has them.
type deadlines struct{ *httptest.ResponseRecorder }

func (deadlines) SetReadDeadline(time.Time) error  { return nil }
func (deadlines) SetWriteDeadline(time.Time) error { return nil }

func TestTokens(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	now := time.Now()
	for want := 1; want <= 3; want++ {
		if got := h.countToken("a", now); got != want {
			t.Errorf("call %d counts %d", want, got)
		}
	}
	for i := range 2 * maxTokens {
		h.countToken(fmt.Sprint(i), now)
	}
	if len(h.calls) > maxTokens {
		t.Errorf("%d tokens are remembered, want at most %d", len(h.calls), maxTokens)
	}
	h.countToken("b", now.Add(2*tokenTime))
	if len(h.calls) != 1 {
		t.Errorf("%d tokens are remembered after their time, want 1", len(h.calls))
	}
}

// What cuts connections, holds responses back, or sends twice is found.
func TestFindings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		carriers []Carrier
		buffered bool
		took     time.Duration // for a connection
		want     string
	}{
		{name: "nothing", carriers: []Carrier{{Name: "websocket", Status: OK, RoundTrip: 0.02}}},
		{name: "lifetime", carriers: []Carrier{{Name: "websocket", Status: Warning, Lasted: 5, LastedCut: true, Silent: 5, SilentCut: true}}, want: "warning lifetime"},
		{name: "idle", carriers: []Carrier{{Name: "websocket", Status: Warning, Lasted: 7, Silent: 5, SilentCut: true}}, want: "warning idle"},
		{name: "idle, and no matter", carriers: []Carrier{{Name: "websocket", Status: Warning, Lasted: 300, Silent: 60, SilentCut: true}}, want: "ok idle"},
		{name: "idle by itself", carriers: []Carrier{{Name: "quic", Status: OK, Lasted: 300, Silent: 30, SilentCut: true}}},
		{name: "slow", carriers: []Carrier{{Name: "websocket", Status: OK, RoundTrip: 0.3}}, want: "warning slow"},
		{name: "buffering", carriers: []Carrier{{Name: "websocket", Status: Failed}, {Name: "poll", Status: OK}}, buffered: true, want: "warning buffering"},
		{name: "buffering, and WebSocket", carriers: []Carrier{{Name: "websocket", Status: OK}}, buffered: true, want: "ok buffering"},
		{name: "no carrier at all", carriers: []Carrier{{Name: "websocket", Status: Failed}}, buffered: true, want: "failed buffering"},
	} {
		x := &examination{report: &Report{Carriers: tt.carriers}, buffered: tt.buffered, connected: time.Millisecond}
		x.conclude()
		if got := codes(x.report); got != tt.want {
			t.Errorf("%s: findings are %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A conn that is closed in use, or in silence, is noticed when it happens.
func TestHold(t *testing.T) {
	t.Parallel()
	pair := func(t *testing.T) (near, far net.Conn) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		near, err = net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if far, err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { near.Close(); far.Close() })
		return near, far
	}
	t.Run("lasts", func(t *testing.T) {
		near, far := pair(t)
		go serveOrders(far, time.Now())
		if s := newLine(near).hold(t.Context(), 50*time.Millisecond, 10*time.Millisecond); s.cut != nil {
			t.Errorf("hold ended with %v", s.cut)
		}
	})
	t.Run("cut in silence", func(t *testing.T) {
		near, far := pair(t)
		time.AfterFunc(20*time.Millisecond, func() { far.Close() })
		if s := newLine(near).hold(t.Context(), time.Minute, time.Minute); s.cut == nil || s.dur > 10*time.Second {
			t.Errorf("hold ended with %v after %v, want an error at once", s.cut, s.dur)
		}
	})
	t.Run("ends with ctx", func(t *testing.T) {
		near, _ := pair(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if s := newLine(near).hold(ctx, time.Minute, time.Minute); s.cut != nil {
			t.Errorf("hold ended with %v", s.cut)
		}
	})
}

// What a report says to machines has names that stay.
func TestReportJSON(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	err := json.NewEncoder(&b).Encode(Report{Server: "s", Status: Failed, Steps: []Step{{Name: "dial", Status: OK, Text: "t"}},
		Carriers: []Carrier{{Name: "poll", Status: Warning, Silent: 5, SilentCut: true}}, Findings: []Finding{{"slow", OK, "c", "r"}}})
	want := `{"server":"s","steps":[{"name":"dial","status":"ok","text":"t","seconds":0}],"carriers":[{"name":"poll","status":"warning","silent":5,"silentCut":true}],` +
		`"findings":[{"code":"slow","severity":"ok","culprit":"c","remedy":"r"}],"status":"failed"}` + "\n"
	if err != nil || b.String() != want {
		t.Errorf("got %s, %v; want %s", b.String(), err, want)
	}
}
