package websocktunnel_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/dialect/websocktunnel"
	"adit/internal/testraw"
	"adit/tunnel"
)

const tunnelKey = "dGhlIHNhbXBsZSBub25jZQ==" // of RFC 6455, section 1.3

// ask sends a request as it is and returns the answer's head and body, as they
// came, and whether the conn goes on.
func (fs *fakeServer) ask(t *testing.T, request string) (answer string, open bool) {
	t.Helper()
	conn, err := net.Dial("tcp", fs.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	answer = testraw.Ask(t, conn, r, request)
	conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	_, err = r.ReadByte()
	var ne net.Error
	return answer, err == nil || errors.As(err, &ne) && ne.Timeout()
}

// TestRegistrationVectors has the answers of the originals to requests for
// registration, byte by byte but for the date.
func TestRegistrationVectors(t *testing.T) {
	t.Parallel()
	tokens, err := auth.NewTunnelTokens(auth.TunnelTokenOptions{Secrets: []string{"test-secret-a", "test-secret-b"}, Lax: true})
	if err != nil {
		t.Fatal(err)
	}
	for file, url := range map[string]string{
		"testdata/websocktunnel/responses.json":                "http://tunnel.test/demo",
		"testdata/webhooktunnel/responses-2018-12-single.json": "http://tunnel.test/demo",
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var vectors []struct{ Name, Request, Response string }
		if err := json.Unmarshal(text, &vectors); err != nil {
			t.Fatal(err)
		}
		fs := newFakeServer(t, false, websocktunnel.Options{
			Auth: tokens,
			URL:  func(*websocktunnel.Family, string, dialect.Bound) string { return url },
		})
		seen := 0
		for _, v := range vectors {
			if !strings.HasPrefix(v.Name, "register") || strings.Contains(v.Name, "another path") {
				continue // the ingress's
			}
			seen++
			request, want := testraw.Bytes(v.Request), testraw.Bytes(v.Response)
			got, open := fs.ask(t, request)
			if got := testraw.Dateless(got); got != testraw.Dateless(want) {
				t.Errorf("%s: %s:\n got %q\nwant %q", file, v.Name, got, testraw.Dateless(want))
			}
			if !open {
				t.Errorf("%s: %s: the conn was closed", file, v.Name)
			}
		}
		if seen < 10 {
			t.Errorf("%s: only %d registrations", file, seen)
		}
	}
}

// register returns a request for registration.
func register(header ...string) string {
	header = append(header, "")
	return "GET / HTTP/1.1\r\nHost: tunnel.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: " + tunnelKey + "\r\nx-websocktunnel-id: demo\r\nAuthorization: Bearer token\r\n" +
		strings.Join(header, "\r\n") + "\r\n"
}

// A registration that fails costs nobody its session, not even one with a good
// token whose upgrade is broken.
func TestFailuresCostNobody(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	l := listen(t, fs.options())
	tun := fs.next(t)
	for _, request := range []string{
		strings.Replace(register(), "Bearer token", "Bearer wrong", 1),
		strings.Replace(register(), tunnelKey, "", 1),
		strings.Replace(register(), "13", "8", 1),
		strings.Replace(register(), "GET", "POST", 1),
	} {
		if answer, _ := fs.ask(t, request); strings.HasPrefix(answer, "HTTP/1.1 101") {
			t.Errorf("%q was accepted", request)
		}
		<-fs.errs
	}
	if err := tun.(interface{ Err() error }).Err(); err != nil || l.Streams() != 0 {
		t.Errorf("the session ended with %v", err)
	}
}

// Upgrades that never go on do not delay others.
func TestSilentUpgrades(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	for range 100 {
		conn, err := net.Dial("tcp", fs.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, register()) // and nothing more
		if (len(fs.tunnels)+1)%10 == 0 {
			io.WriteString(conn, "\x82") // or a part of a frame
		}
	}
	began := time.Now()
	for range 100 {
		fs.next(t)
	}
	listen(t, fs.options())
	fs.next(t)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

// What is sent together with the registration is not lost.
func TestDataBehindRegistration(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	conn, err := net.Dial("tcp", fs.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, register()+"\x89\x82\x00\x00\x00\x00hi") // a ping
	r := bufio.NewReader(conn)
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	for !strings.Contains(seen.String(), "\x8a\x02hi") {
		b, err := r.ReadByte()
		if err != nil {
			t.Fatalf("got %q, %v; want the pong", seen.String(), err)
		}
		seen.WriteByte(b)
	}
}

// The extension is only spoken with those who ask for it in a way that is
// understood.
func TestExtension(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	for _, tt := range []struct{ header, want string }{
		{"", ""},
		{"Adit-Wsmux: window=262144", "window=262144"},
		{"Adit-Wsmux: window=8192, mask=zero, more=x", "window=262144, mask=zero"},
		{"Adit-Wsmux: mask=zero", ""},
		{"Adit-Wsmux: window=1", ""},
		{"Adit-Wsmux: window=-262144", ""},
		{"Adit-Wsmux: window=999999999999999999999", ""},
	} {
		request := register(tt.header)
		if tt.header == "" {
			request = register()
		}
		answer, _ := fs.ask(t, request)
		_, got, _ := strings.Cut(answer, "Adit-Wsmux: ")
		got, _, _ = strings.Cut(got, "\r\n")
		if got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.header, got, tt.want)
		}
		tun := fs.next(t)
		if _, early := tun.(tunnel.EarlyOpener); early != (tt.want != "") {
			t.Errorf("%q: the tunnel opens early: %v", tt.header, early)
		}
	}
}

func TestRefusedByServer(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	fs.refuse = errors.New("taken")
	opts := fs.options()
	if _, err := websocktunnel.Listen(t.Context(), opts); err == nil {
		t.Fatal("got no error")
	} else if se, ok := errors.AsType[*websocktunnel.StatusError](err); !ok || se.Code != 403 || !errors.Is(err, websocktunnel.ErrRetryFailed) {
		t.Errorf("got %v, want status 403 at once", err)
	}
}

// IDs as the two families allow them.
func TestIDs(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	for _, tt := range []struct {
		header string
		ok     bool
	}{
		{"x-websocktunnel-id: Az9_~.%-", true}, {"x-websocktunnel-id: a b", false}, {"x-websocktunnel-id: a/b", false},
		{"x-websocktunnel-id: a:b", false}, {"x-websocktunnel-id: \xc3\xa9", false}, {"x-websocktunnel-id: " + strings.Repeat("a", 255), true},
		{"x-websocktunnel-id: " + strings.Repeat("a", 256), false},
		{"x-webhooktunnel-id: a b", true}, {"x-webhooktunnel-id: a/b:c", true}, {"x-webhooktunnel-id: \xc3\xa9", false},
	} {
		answer, _ := fs.ask(t, strings.Replace(register(), "x-websocktunnel-id: demo", tt.header, 1))
		if ok := strings.HasPrefix(answer, "HTTP/1.1 101"); ok != tt.ok {
			t.Errorf("%q: got %.40q, want it accepted: %v", tt.header, answer, tt.ok)
		}
		if tt.ok {
			fs.next(t)
		} else {
			<-fs.errs
		}
	}
}

// busy refuses everybody for a while.
type busy struct{}

func (busy) Authenticate(context.Context, auth.Claim) (*auth.Identity, error) {
	return nil, &auth.Error{Code: auth.Busy, Reason: "later"}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{Auth: busy{}})
	if answer, _ := fs.ask(t, register()); !strings.HasPrefix(answer, "HTTP/1.1 503") {
		t.Errorf("got %.60q, want 503, after which agents try again", answer)
	}
}
