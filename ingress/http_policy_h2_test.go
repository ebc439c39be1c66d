package ingress

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"adit/policy"
)

// Visitors of HTTP/2 are held to the same rules.
func TestPolicyOverHTTP2(t *testing.T) {
	t.Parallel()
	key, token := viewerKeyOf(t, "web")
	up := &seen{}
	m := startUpstream(t, up)
	g := newGuard(t, "web", policy.Policy{
		BasicAuth:  []policy.Login{login(t, "alice", "sesame")},
		ViewerKeys: []policy.ViewerKey{key},
		MaxBody:    10,
	})
	_, addr := startHTTP(t, HTTPOptions{H2C: true, Router: routerFunc(func(context.Context, string) (Target, error) {
		return Target{Tunnel: m, Policy: g}, nil
	})})
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	for _, tt := range []struct {
		name, user, cookie, body string
		status                   int
		code                     string
	}{
		{"nothing", "", "", "", 401, "login-required"},
		{"login", "alice:sesame", "", "", 401, "viewer-token-required"},
		{"cookie", "", "a=b; adit-viewer=" + token + "; c=d", "", 401, "login-required"},
		{"both", "alice:sesame", "a=b; adit-viewer=" + token + "; c=d", "short", 200, ""},
		{"long body", "alice:sesame", "adit-viewer=" + token, strings.Repeat("x", 100_000), 413, "body-too-large"},
	} {
		req, err := http.NewRequest("POST", "http://"+addr+"/", io.MultiReader(strings.NewReader(tt.body))) // of unknown length
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "web"
		if user, password, ok := strings.Cut(tt.user, ":"); ok {
			req.SetBasicAuth(user, password)
		}
		if tt.cookie != "" {
			req.Header.Set("Cookie", tt.cookie)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.ProtoMajor != 2 || resp.StatusCode != tt.status || resp.Header.Get("Adit-Error") != tt.code {
			t.Errorf("%s: got %s %d %q %s, %v; want %d %q", tt.name, resp.Proto, resp.StatusCode, resp.Header.Get("Adit-Error"), body, err, tt.status, tt.code)
		}
	}
	if up.whole() != 1 || up.bodies[0] != "short" || up.requests[0].Header.Get("Cookie") != "a=b; c=d" || up.requests[0].Header["Authorization"] != nil {
		t.Errorf("the upstream saw %q", up.bodies)
	}
}
