package admin_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"adit/admin"
	"adit/auth"
)

const (
	asJSON     = "Content-Type: application/json"
	blockBody  = `{"name":"web","reason":"phishing"}`
	routesBody = `{"routes":[{"name":"web","members":[{"id":"a"}]}]}`
)

// What each verb takes: nothing but the admin token carries out an order, and
// nothing but one of the tokens shows anything.
func TestEachVerbIsAuthorised(t *testing.T) {
	t.Parallel()
	verbs := []struct {
		method, path, body string
		open, write        bool
	}{
		{"GET", "/healthz", "", true, false},
		{"GET", "/readyz", "", true, false},
		{"GET", "/metrics", "", false, false},
		{"GET", "/api/v1/openapi.yaml", "", false, false},
		{"GET", "/api/v1/status", "", false, false},
		{"GET", "/api/v1/agent", "", false, false},
		{"GET", "/api/v1/sessions", "", false, false},
		{"GET", "/api/v1/sessions/one", "", false, false},
		{"DELETE", "/api/v1/sessions/one", "", false, true},
		{"GET", "/api/v1/tunnels", "", false, false},
		{"GET", "/api/v1/routes", "", false, false},
		{"GET", "/api/v1/blocks", "", false, false},
		{"POST", "/api/v1/blocks", blockBody, false, true},
		{"DELETE", "/api/v1/blocks/web", "", false, true},
		{"POST", "/api/v1/reload", "", false, true},
		{"GET", "/debug/pprof/", "", false, true},
		{"GET", "/debug/pprof/heap", "", false, true},
	}
	for _, v := range verbs {
		t.Run(v.method+" "+v.path, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, func(o *admin.Options) { o.Agent = &fakeAgent{} })
			for _, who := range []struct {
				name   string
				fields []string
				query  string
				want   int // 0 means that it is let in
			}{
				{"nobody", nil, "", 401},
				{"empty token", []string{"Authorization: Bearer "}, "", 401},
				{"another token", []string{"Authorization: Bearer " + auth.NewSecret().Reveal()}, "", 401},
				{"most of the token", []string{"Authorization: Bearer " + f.token[:len(f.token)-1]}, "", 401},
				{"another scheme", []string{"Authorization: Basic " + f.token}, "", 401},
				{"two credentials", []string{"Authorization: Bearer " + f.token, "Authorization: Bearer x"}, "", 401},
				{"token in a cookie", []string{"Cookie: token=" + f.token + "; Authorization=Bearer " + f.token}, "", 401},
				{"token in the query", nil, "?token=" + f.token + "&access_token=" + f.token, 401},
				{"said to be local", []string{"X-Forwarded-For: 127.0.0.1", "X-Real-Ip: 127.0.0.1", "Forwarded: for=127.0.0.1"}, "", 401},
				{"reader", []string{"Authorization: Bearer " + f.read}, "", map[bool]int{true: 403}[v.write]},
				{"operator", []string{"Authorization: bearer " + f.token}, "", 0},
				{"operator by another name", []string{"Authorization: Bearer " + f.token, "Host: admin.example.com"}, "", 403},
				{"operator by a name like an address", []string{"Authorization: Bearer " + f.token, "Host: 127.0.0.1.example.com:9090"}, "", 403},
				{"operator's browser on a page", []string{"Authorization: Bearer " + f.token, "Origin: http://example.com"}, "", 403},
				{"operator's browser on a page of ours", []string{"Authorization: Bearer " + f.token, "Origin: http://127.0.0.1:9090"}, "", 403},
				{"operator's browser without origin", []string{"Authorization: Bearer " + f.token, "Sec-Fetch-Site: cross-site"}, "", 403},
			} {
				want := who.want
				if v.open && !slices.Contains([]string{"operator by another name", "operator by a name like an address"}, who.name) &&
					!strings.Contains(who.name, "browser") {
					want = 0
				}
				before := len(f.server.got())
				w := f.ask(v.method, v.path+who.query, v.body, append(who.fields, asJSON)...)
				switch {
				case want == 0 && w.Code >= 300:
					t.Errorf("%s: got %d %q, want to be let in", who.name, w.Code, w.Body)
				case want != 0 && w.Code != want:
					t.Errorf("%s: got %d, want %d", who.name, w.Code, want)
				case want != 0:
					if c := code(t, w); c == "" {
						t.Errorf("%s: got no code", who.name)
					}
				}
				if n := len(f.server.got()); want != 0 && n != before {
					t.Errorf("%s: it was carried out", who.name)
				}
				if h := w.Header(); h.Get("Access-Control-Allow-Origin") != "" || h.Get("Set-Cookie") != "" {
					t.Errorf("%s: got header %v, want none for pages of others", who.name, h)
				}
				if strings.Contains(w.Body.String(), f.token) || strings.Contains(w.Body.String(), f.read) {
					t.Errorf("%s: a token shows in the answer", who.name)
				}
			}
			if n := len(f.server.got()); v.write && v.method != "GET" && n != 1 {
				t.Errorf("got %d orders carried out, want the operator's alone: %v", n, f.server.got())
			}
			if strings.Contains(f.log.String(), f.token) || strings.Contains(f.log.String(), f.read) {
				t.Error("a token shows in the log")
			}
		})
	}
}

// A GET changes nothing, whatever is tried.
func TestReadingChangesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	for _, path := range []string{
		"/api/v1/reload", "/api/v1/sessions/one?_method=DELETE", "/api/v1/blocks?name=web", "/api/v1/blocks/web", "/api/reload",
	} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "TRACE"} {
			f.ask(method, path, blockBody, "Authorization: Bearer "+f.token, asJSON, "X-HTTP-Method-Override: DELETE")
		}
	}
	if got := f.server.got(); len(got) > 0 {
		t.Errorf("got orders %v, want none", got)
	}
	w := f.ask("GET", "/api/v1/reload", "", "Authorization: Bearer "+f.token)
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "POST" {
		t.Errorf("got %d with Allow %q, want 405 with POST", w.Code, w.Header().Get("Allow"))
	}
}

func TestNamesOfTheAddress(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(o *admin.Options) { o.Hosts = []string{"Adit.Internal."} })
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST:9090": 200, "127.0.0.1": 200, "10.1.2.3:80": 200, "[::1]:9090": 200, "[fe80::1]": 200,
		"adit.internal": 200, "ADIT.internal.:9090": 200,
		"evil.example": 403, "localhost.evil.example": 403, "127.0.0.1.nip.io": 403, "0x7f.1": 403, "adit.internal.evil": 403, "": 403,
	} {
		if w := f.ask("GET", "/healthz", "", "Host: "+host); w.Code != want {
			t.Errorf("host %q: got %d, want %d", host, w.Code, want)
		}
	}
}

func TestNoTokenNoHandler(t *testing.T) {
	t.Parallel()
	if _, err := admin.New(admin.Options{Server: &fakeServer{}}); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("without a token: got %v, want an error that says so", err)
	}
	if _, err := admin.New(admin.Options{Token: auth.NewSecret()}); err == nil {
		t.Error("without a server: got no error")
	}
}

func TestOpenMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(o *admin.Options) { o.OpenMetrics = true })
	if w := f.ask("GET", "/metrics", ""); w.Code != 200 {
		t.Errorf("metrics: got %d, want 200", w.Code)
	}
	if w := f.ask("GET", "/metrics", "", "Host: evil.example"); w.Code != 403 {
		t.Errorf("metrics by another name: got %d, want 403", w.Code)
	}
	if w := f.ask("GET", "/api/v1/status", ""); w.Code != 401 {
		t.Errorf("status: got %d, want 401", w.Code)
	}
}
