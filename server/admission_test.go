package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/carrier"
	"adit/internal/testlog"
	"adit/server"
)

// knock sends a request as an agent does, and returns the answer. The conn is
// closed with the test.
func (f *fixture) knock(t *testing.T, header string) (*http.Response, net.Conn) {
	t.Helper()
	conn, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /_adit/connect HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: adit.1\r\n%s\r\n", header)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp, conn
}

// Whatever credentials a server is configured with, it turns away those who
// show none or another one, also when they come from the same machine.
func TestNobodyEntersUninvited(t *testing.T) {
	t.Parallel()
	one, two := auth.NewSecret(), auth.NewSecret()
	sign := func(s auth.Secret, c auth.TokenClaims) string {
		token, err := auth.Mint(s, c)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	claims := auth.TokenClaims{Subject: "me", Expires: time.Now().Add(time.Hour), Scope: auth.Everything()}
	expired, elsewhere := claims, claims
	expired.Expires = time.Now().Add(-time.Hour)
	elsewhere.Audience = "elsewhere"
	for _, config := range []struct {
		name string
		opts auth.Options
		good []string
	}{
		{"nothing", auth.Options{}, nil},
		{"one secret", auth.Options{Secrets: []auth.Secret{one}}, []string{one.Reveal(), sign(one, claims)}},
		{"two secrets", auth.Options{Secrets: []auth.Secret{one, two}}, []string{one.Reveal(), two.Reveal(), sign(two, claims)}},
		{"an audience", auth.Options{Secrets: []auth.Secret{one}, Audience: "elsewhere"}, []string{sign(one, elsewhere)}},
	} {
		t.Run(config.name, func(t *testing.T) {
			t.Parallel()
			a, err := auth.NewAuthenticator(config.opts)
			if err != nil {
				t.Fatal(err)
			}
			f := start(t, func(o *server.Options) { o.Auth = a })
			for name, header := range map[string]string{
				"none":                  "",
				"empty":                 "Authorization: Bearer \r\n",
				"another scheme":        "Authorization: Basic " + one.Reveal() + "\r\n",
				"another secret":        "Authorization: Bearer " + auth.NewSecret().Reveal() + "\r\n",
				"expired token":         "Authorization: Bearer " + sign(one, expired) + "\r\n",
				"token of another":      "Authorization: Bearer " + sign(auth.NewSecret(), claims) + "\r\n",
				"unsigned token":        "Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSIsImV4cCI6NDAwMDAwMDAwMH0.\r\n",
				"in the query's place":  "Cookie: token=" + one.Reveal() + "\r\n",
				"said to be the server": "X-Forwarded-For: 127.0.0.1\r\nX-Real-Ip: 127.0.0.1\r\n",
			} {
				resp, _ := f.knock(t, header)
				if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("Adit-Error") == "" {
					t.Errorf("%s: got %s with code %q, want 401 with a code", name, resp.Status, resp.Header.Get("Adit-Error"))
				}
			}
			for i, token := range config.good {
				if _, err := f.dialSession(t, token); err != nil {
					t.Errorf("good credential %d: %v", i+1, err)
				}
			}
		})
	}
}

func TestRefusalsOfAgents(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	scoped := f.mint(t, auth.TokenClaims{Subject: "me", Scope: auth.Scope{IDs: []string{"mine"}}})
	for _, tt := range []struct {
		name, header string
		status       int
		code         string
	}{
		{"no credential", "", 401, "missing-credential"},
		{"wrong credential", "Authorization: Bearer wrong\r\n", 401, "invalid-credential"},
		{"id not allowed", "Authorization: Bearer " + scoped + "\r\nAdit-Id: yours\r\n", 403, "forbidden"},
		{"page in a browser", "Authorization: Bearer " + f.secret.Reveal() + "\r\nOrigin: http://example.com\r\n", 403, ""},
		{"long instance", "Authorization: Bearer " + f.secret.Reveal() + "\r\nAdit-Instance: " + strings.Repeat("i", 200) + "\r\n", 400, "bad-request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			resp, _ := f.knock(t, tt.header)
			if resp.StatusCode != tt.status || resp.Header.Get("Adit-Error") != tt.code {
				t.Errorf("got %s with code %q, want %d with %q", resp.Status, resp.Header.Get("Adit-Error"), tt.status, tt.code)
			}
		})
	}
}

func TestOwnPaths(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.agent(t, nil, httpTunnel(t, "web", saying(t, "web"))).up(t)
	visitor := f.visitor(t)
	for _, tt := range []struct {
		host, path string
		status     int
	}{
		{"example.com", "/_adit/", 404},
		{"example.com", "/_adit/nothing", 404},
		{"web.example.com", "/_adit/nothing", 404},
		{"web.example.com", "/_adit/connect/more", 404},
		{"example.com", "/_adit/connect", 401},
		{"web.example.com", "/_adit/connect", 401},
		{"web.example.com", "/_aditx", 200},
	} {
		if status, body := f.get(t, visitor, tt.host, tt.path); status != tt.status {
			t.Errorf("%s%s: got %d %q, want %d", tt.host, tt.path, status, body, tt.status)
		}
	}
}

// So many may be in the middle of their handshake; the next one is told to come
// again, and visitors notice nothing. The server need not wait for them to end.
func TestHandshakesAreBounded(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.agent(t, nil, httpTunnel(t, "web", saying(t, "web"))).up(t)
	f.logs(t, "bound")
	credential := "Authorization: Bearer " + f.secret.Reveal() + "\r\n"
	first := f.silent(t, credential)
	for range 255 {
		f.silent(t, credential)
	}
	resp, _ := f.knock(t, credential)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Adit-Error") != "busy" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %s, code %q, Retry-After %q; want 503, busy and a time", resp.Status, resp.Header.Get("Adit-Error"), resp.Header.Get("Retry-After"))
	}
	if status, _ := f.get(t, f.visitor(t), "web.example.com", "/"); status != 200 {
		t.Errorf("a visitor meanwhile: got status %d, want 200", status)
	}
	first.Close() // makes room
	f.logs(t, "agent not admitted")
	f.agent(t, nil, httpTunnel(t, "app", saying(t, "app"))).up(t)

	began := time.Now()
	if err := f.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end of the server took %v", took)
	}
}

// silent begins a handshake and says nothing more.
func (f *fixture) silent(t *testing.T, header string) net.Conn {
	t.Helper()
	resp, conn := f.knock(t, header)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %s, want 101", resp.Status)
	}
	return conn
}

// What is secret shows nowhere.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	token := f.mint(t, auth.TokenClaims{Subject: "me", Scope: auth.Scope{IDs: []string{"web"}}})
	wrong := "adit_wrong-but-still-nobodys-business"
	var seen strings.Builder
	note := func(what ...any) { fmt.Fprintln(&seen, what...) }

	for _, credential := range []string{f.secret.Reveal(), token, wrong} {
		for _, more := range []string{"", "Origin: http://example.com\r\n", "Adit-Id: app\r\n", "Adit-Instance: " + strings.Repeat("i", 200) + "\r\n", "Sec-WebSocket-Version: 12\r\n"} {
			resp, _ := f.knock(t, "Authorization: Bearer "+credential+"\r\n"+more)
			note(resp.Header)
			if resp.StatusCode != http.StatusSwitchingProtocols {
				body, err := io.ReadAll(resp.Body)
				note(string(body), err)
			}
		}
		resp, err := f.visitor(t).Get("http://example.com/_adit/connect?token=" + credential)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		note(resp.Header)
	}

	// At an agent, with everything that it logs and says.
	agentLog := &testlog.Log{}
	logger := options(t, agentLog).Logger
	a := f.agent(t, func(o *agent.Options) { o.Logger = logger }, httpTunnel(t, "web", saying(t, "web")))
	a.up(t)
	f.get(t, f.visitor(t), "web.example.com", "/")
	b := f.agent(t, func(o *agent.Options) {
		o.Logger = logger
		o.Token = func() (string, error) { return wrong, nil }
	}, httpTunnel(t, "web", saying(t, "web")))
	refused := b.phase(t, agent.Refused)
	note(refused.Err, fmt.Sprintf("%+v %#v", refused, refused))
	if se, ok := errors.AsType[*carrier.StatusError](refused.Err); !ok || se.StatusCode != 401 {
		t.Errorf("got error %v, want the server's 401", refused.Err)
	}
	c := f.agent(t, func(o *agent.Options) {
		o.Logger = logger
		o.Token = func() (string, error) { return token, nil }
	}, httpTunnel(t, "app", saying(t, "app")))
	note(c.phase(t, agent.Refused).Err)

	s, err := f.dialSession(t, token)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	note(s.Refresh(ctx, wrong), s.Refresh(ctx, f.secret.Reveal()))
	note(fmt.Sprintf("%v %+v %#v", f.secret, f.secret, f.secret))
	text, err := json.Marshal(map[string]any{"secret": f.secret})
	note(string(text), err)
	args, err := os.ReadFile("/proc/self/cmdline")
	note(string(args), err)
	if err := f.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	note(f.log, agentLog)

	for name, secret := range map[string]string{"secret": f.secret.Reveal(), "token": token, "wrong credential": wrong} {
		for _, part := range append(strings.Split(secret, "."), secret) {
			if at := strings.Index(seen.String(), part); at >= 0 && part != "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9" {
				t.Errorf("the %s shows: …%s", name, seen.String()[max(0, at-100):at])
			}
		}
	}
	if !strings.Contains(seen.String(), "agent not admitted") {
		t.Error("the log is not among what was looked at")
	}
}
