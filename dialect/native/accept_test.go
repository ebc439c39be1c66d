package native_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"adit/auth"
	"adit/carrier"
	"adit/dialect"
	"adit/dialect/native"
	"adit/session"
	"adit/tunnel"
)

// TestAccept makes requests that must not become a session.
func TestAccept(t *testing.T) {
	t.Parallel()
	upgrade := http.Header{
		"Upgrade":                {"websocket"},
		"Connection":             {"Upgrade"},
		"Sec-Websocket-Version":  {"13"},
		"Sec-Websocket-Key":      {"AAAAAAAAAAAAAAAAAAAAAA=="},
		"Sec-Websocket-Protocol": {native.Subprotocol},
	}
	for _, tt := range []struct {
		name   string
		header http.Header
		err    error // of admit
		status int
		code   string // of Adit-Error
	}{
		{"no credential", nil, &auth.Error{Code: auth.MissingCredential, Reason: "none"}, 401, "missing-credential"},
		{"wrong credential", nil, &auth.Error{Code: auth.InvalidCredential, Reason: "unknown"}, 401, "invalid-credential"},
		{"expired credential", nil, &auth.Error{Code: auth.ExpiredCredential, Reason: "expired"}, 401, "expired-credential"},
		{"forbidden", nil, &auth.Error{Code: auth.Forbidden, Reason: "not you"}, 403, "forbidden"},
		{"malformed", nil, &auth.Error{Code: auth.BadRequest, Reason: "what"}, 400, "bad-request"},
		{"busy", nil, &auth.Error{Code: auth.Busy, Reason: "later"}, 503, "busy"},
		{"admission failed", nil, errors.New("database password is hunter2"), 503, "internal"},
		{"instance too long", http.Header{"Adit-Instance": {strings.Repeat("x", 129)}}, nil, 400, "bad-request"},
		{"id too long", http.Header{"Adit-Id": {strings.Repeat("x", 64)}}, nil, 400, "bad-request"},
		{"no upgrade", http.Header{"Upgrade": nil}, nil, 426, ""},
		{"from a page", http.Header{"Origin": {"https://evil.test"}}, nil, 403, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			fs := newFakeServer(t, tcp, native.Options{})
			asked := 0
			fs.admit = func(ctx context.Context, c auth.Claim) (*auth.Identity, error) {
				asked++
				return &auth.Identity{Subject: "s"}, tt.err
			}
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http"+fs.url[2:]+native.Path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header = upgrade.Clone()
			for k, v := range tt.header {
				r.Header[k] = v
			}
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			resp, err := tr.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tt.status || resp.Header.Get("Adit-Error") != tt.code {
				t.Errorf("answer %d with Adit-Error %q, want %d, %q", resp.StatusCode, resp.Header.Get("Adit-Error"), tt.status, tt.code)
			}
			if got := resp.Header.Get("WWW-Authenticate"); (got == "Bearer") != (tt.status == 401) {
				t.Errorf("WWW-Authenticate is %q with status %d", got, tt.status)
			}
			if got := resp.Header.Get("Retry-After"); (got != "") != (tt.code == "busy") {
				t.Errorf("Retry-After is %q with code %s", got, tt.code)
			}
			if strings.Contains(string(body), "hunter2") {
				t.Errorf("body tells the inside: %s", body)
			}
			a := fs.next(t)
			if a.err == nil || a.t != nil {
				t.Errorf("Accept: %v, %v; want an error alone", a.t, a.err)
			}
			if tt.err != nil && !errors.Is(a.err, tt.err) {
				t.Errorf("Accept: %v, want admit's error", a.err)
			}
			want := 1
			if tt.code == "bad-request" && tt.err == nil {
				want = 0 // nobody looks at what is too long
			}
			if asked != want {
				t.Errorf("admit was asked %d times, want %d", asked, want)
			}
		})
	}
}

// TestMatch tells the dialect's requests from others.
func TestMatch(t *testing.T) {
	t.Parallel()
	d := native.New(native.Options{})
	for path, want := range map[string]bool{
		"/_adit/connect": true, "/_adit/connect?x=y": true, "/_adit/connect/": false, "/_adit": false, "/": false,
	} {
		r, err := http.NewRequest("GET", "http://server.test"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Match(r); got != want {
			t.Errorf("Match of %s: %v, want %v", path, got, want)
		}
	}
}

// TestClaim checks what admit is told.
func TestClaim(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ header, token string }{
		{"Bearer secret", "secret"}, {"bearer  secret ", "secret"}, {"Basic secret", ""}, {"Bearer", ""}, {"", ""}, {"secret", ""},
	} {
		fs := newFakeServer(t, tcp, native.Options{})
		var got auth.Claim
		fs.admit = func(_ context.Context, c auth.Claim) (*auth.Identity, error) {
			got = c
			return nil, &auth.Error{Code: auth.Busy}
		}
		r, _ := http.NewRequestWithContext(t.Context(), "GET", "http"+fs.url[2:]+native.Path, nil)
		r.Header.Set("Adit-Id", "web")
		if tt.header != "" {
			r.Header.Set("Authorization", tt.header)
		}
		tr := &http.Transport{}
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		tr.CloseIdleConnections()
		fs.next(t)
		if got.Token != tt.token || got.ID != "web" || got.Remote.Addr() != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("with %q the claim is %q for %q from %v, want %q for web from 127.0.0.1", tt.header, got.Token, got.ID, got.Remote, tt.token)
		}
	}
}

// TestClaimHasCertificates shows a certificate, for which admit has to look
// whether it is good.
func TestClaimHasCertificates(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, secure, native.Options{})
	var got auth.Claim
	fs.admit = func(_ context.Context, c auth.Claim) (*auth.Identity, error) {
		got = c
		return nil, &auth.Error{Code: auth.Busy}
	}
	mine, _ := certificate(t)
	for _, certs := range [][]tls.Certificate{nil, mine.Certificates} {
		d := fs.dialer("")
		d.Token = nil
		d.TLS = d.TLS.Clone()
		d.TLS.Certificates = certs
		if _, err := native.Dial(t.Context(), d, native.SessionOptions{}); err == nil {
			t.Fatal("Dial: got no error")
		}
		fs.next(t)
		if got.Token != "" || len(got.Certs) != len(certs) {
			t.Errorf("the claim has token %q and %d certificates, want %d", got.Token, len(got.Certs), len(certs))
		}
		if len(certs) > 0 && !bytes.Equal(got.Certs[0].Raw, certs[0].Certificate[0]) {
			t.Error("the claim has another certificate")
		}
	}
}

// TestDialRefused gives the agent's side each way of being turned away.
func TestDialRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		admit   error
		refused bool
		status  int
		after   time.Duration
	}{
		{"credential", &auth.Error{Code: auth.InvalidCredential, Reason: "unknown"}, true, 401, 0},
		{"busy", &auth.Error{Code: auth.Busy, Reason: "later"}, true, 503, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			fs := newFakeServer(t, tcp, native.Options{})
			fs.admit = func(context.Context, auth.Claim) (*auth.Identity, error) { return nil, tt.admit }
			_, err := native.Dial(t.Context(), fs.dialer("top-secret-token"), native.SessionOptions{})
			var se *carrier.StatusError
			if !errors.As(err, &se) || se.StatusCode != tt.status {
				t.Fatalf("Dial: %v, want status %d", err, tt.status)
			}
			if refused, after := native.Refused(err); refused != tt.refused || after != tt.after {
				t.Errorf("Refused: %v after %v, want %v after %v", refused, after, tt.refused, tt.after)
			}
			if strings.Contains(err.Error(), "top-secret-token") {
				t.Errorf("error shows the credential: %v", err)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		d := &native.Dialer{Server: "ws://127.0.0.1:1"}
		_, err := native.Dial(t.Context(), d, native.SessionOptions{})
		if refused, _ := native.Refused(err); err == nil || refused {
			t.Errorf("Dial: %v, refused %v; want an error that is no refusal", err, refused)
		}
	})
	t.Run("no credential to be had", func(t *testing.T) {
		t.Parallel()
		want := errors.New("file is gone")
		d := &native.Dialer{Server: "ws://127.0.0.1:1", Token: func() (string, error) { return "", want }}
		if _, err := native.Dial(t.Context(), d, native.SessionOptions{}); !errors.Is(err, want) {
			t.Errorf("Dial: %v, want %v", err, want)
		}
	})
}

func TestDialerCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		server string
		ok     bool
	}{
		{"wss://tunnel.example.com", true}, {"ws://127.0.0.1:80/base/", true}, {"https://x", true}, {"http://x", true},
		{"", false}, {"tunnel.example.com", false}, {"ftp://x", false}, {"wss://", false}, {"://", false},
	} {
		d := &native.Dialer{Server: tt.server}
		if err := d.Check(); (err == nil) != tt.ok {
			t.Errorf("Check of %q: %v, want ok: %v", tt.server, err, tt.ok)
		}
	}
}

// TestResume breaks the carrier under a stream: Serve gets another one, which
// the server admits anew.
func TestResume(t *testing.T) {
	t.Parallel()
	for _, nw := range []network{memory, tcp, secure} {
		t.Run(string(nw), func(t *testing.T) {
			t.Parallel()
			fs := newFakeServer(t, nw, native.Options{})
			changes := make(chan error, 100)
			tun, s := fs.start(t, fs.dialer("secret"), native.SessionOptions{
				OnCarrier: func(lost error, _ time.Duration) { changes <- lost },
			})
			near, far := stream(t, tun, s)
			for i := range 3 {
				fs.cut()
				if a := fs.next(t); !errors.Is(a.err, dialect.ErrResumed) || a.t != tun {
					t.Fatalf("Accept: %v, %v; want the same tunnel and ErrResumed", a.t, a.err)
				}
				for range 2 {
					if lost := <-changes; lost == nil {
						break
					}
				}
				b := []byte{byte(i)}
				if _, err := near.Write(b); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(far, b); err != nil || b[0] != byte(i) {
					t.Fatalf("read %d, %v; want %d", b[0], err, i)
				}
			}
			if n := tun.(tunnel.Drainer).Streams(); n != 1 {
				t.Errorf("%d streams after resuming, want 1", n)
			}
		})
	}
}

// stream opens a stream and returns both ends.
func stream(t *testing.T, tun tunnel.Tunnel, s *native.Session) (near, far tunnel.Incoming) {
	t.Helper()
	done := make(chan tunnel.Incoming, 1)
	go func() {
		c, err := s.Accept()
		if err != nil {
			t.Error(err)
			close(done)
			return
		}
		in := c.(tunnel.Incoming)
		in.Accept()
		done <- in
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := tun.OpenStream(ctx, tunnel.StreamInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return c.(tunnel.Incoming), <-done
}

// TestResumeOfSomebodyElse resumes with a credential of another subject: the
// answer is that there is no such session.
func TestResumeOfSomebodyElse(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, tcp, native.Options{})
	token := make(chan string, 2)
	token <- "alice"
	d := fs.dialer("")
	d.Token = func() (string, error) { return <-token, nil }
	tun, s := fs.start(t, d, native.SessionOptions{})
	token <- "mallory"
	fs.cut()
	if a := fs.next(t); a.t != nil || a.err == nil || errors.Is(a.err, dialect.ErrResumed) {
		t.Errorf("Accept: %v, %v; want a refusal", a.t, a.err)
	}
	<-s.Done()
	if err := s.Err(); !errors.Is(err, session.ErrLost) {
		t.Errorf("agent's session ended with %v, want ErrLost", err)
	}
	select {
	case <-tun.Done():
		t.Error("the server's session ended by somebody else's credential")
	default:
	}
}

// TestEnd checks what an agent hears of each end.
func TestEnd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		code                   tunnel.EndCode
		superseded, credential bool
	}{
		{tunnel.EndDone, false, false}, {tunnel.EndShutdown, false, false},
		{tunnel.EndCredential, false, true}, {tunnel.EndSuperseded, true, false},
	} {
		fs := newFakeServer(t, tcp, native.Options{})
		tun, s := fs.start(t, fs.dialer("secret"), native.SessionOptions{})
		if err := tun.(tunnel.Ender).End(tt.code, "because"); err != nil {
			t.Errorf("End: %v", err)
		}
		<-s.Done()
		err := s.Err()
		if superseded, credential := native.Ended(err); superseded != tt.superseded || credential != tt.credential || !strings.Contains(err.Error(), "because") {
			t.Errorf("end with code %d: %v, superseded %v, credential %v; want %v, %v", tt.code, err, superseded, credential, tt.superseded, tt.credential)
		}
		if _, err := s.Accept(); !errors.Is(err, tunnel.ErrClosed) {
			t.Errorf("Accept: %v, want tunnel.ErrClosed", err)
		}
		if _, err := tun.OpenStream(t.Context(), tunnel.StreamInfo{}); !errors.Is(err, tunnel.ErrClosed) {
			t.Errorf("OpenStream: %v, want tunnel.ErrClosed", err)
		}
		// Its own end is neither.
		if superseded, credential := native.Ended(tun.(interface{ Err() error }).Err()); superseded || credential {
			t.Errorf("the server's own end counts as superseded %v, credential %v", superseded, credential)
		}
	}
}
