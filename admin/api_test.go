package admin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"adit/admin"
)

func TestOrders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method, path, body string
		fields                   []string
		status                   int
		order                    string
	}{
		{"close", "DELETE", "/api/v1/sessions/two", "", nil, 204, "close two"},
		{"close nobody", "DELETE", "/api/v1/sessions/three", "", nil, 404, ""},
		{"close all", "DELETE", "/api/v1/sessions", "", nil, 405, ""},
		{"block", "POST", "/api/v1/blocks", blockBody, []string{asJSON}, 204, "block web for phishing"},
		{"block with charset", "POST", "/api/v1/blocks", blockBody, []string{asJSON + "; charset=utf-8"}, 204, "block web for phishing"},
		{"block as a form", "POST", "/api/v1/blocks", blockBody, []string{"Content-Type: text/plain"}, 415, ""},
		{"block without type", "POST", "/api/v1/blocks", blockBody, nil, 415, ""},
		{"block nothing", "POST", "/api/v1/blocks", `{}`, []string{asJSON}, 400, ""},
		{"block with no JSON", "POST", "/api/v1/blocks", `name=web`, []string{asJSON}, 400, ""},
		{"block with another field", "POST", "/api/v1/blocks", `{"name":"web","until":"never"}`, []string{asJSON}, 400, ""},
		{"block two", "POST", "/api/v1/blocks", blockBody + blockBody, []string{asJSON}, 400, ""},
		{"block with a long reason", "POST", "/api/v1/blocks", `{"name":"web","reason":"` + strings.Repeat("r", 257) + `"}`, []string{asJSON}, 400, ""},
		{"block with a long body", "POST", "/api/v1/blocks", `{"name":"` + strings.Repeat("n", 70_000) + `"}`, []string{asJSON}, 413, ""},
		{"unblock", "DELETE", "/api/v1/blocks/web", "", nil, 204, "unblock web"},
		{"unblock what is not", "DELETE", "/api/v1/blocks/app", "", nil, 404, ""},
		{"set routes", "PUT", "/api/v1/route-set", routesBody, []string{asJSON}, 200, "1 routes"},
		{"set routes of this revision", "PUT", "/api/v1/route-set", routesBody, []string{asJSON, `If-Match: "one"`}, 200, "1 routes"},
		{"set routes of another revision", "PUT", "/api/v1/route-set", routesBody, []string{asJSON, `If-Match: "two"`}, 412, ""},
		{"set no routes", "PUT", "/api/v1/route-set", `{"routes":[]}`, []string{asJSON}, 200, "0 routes"},
		{"set routes without any", "PUT", "/api/v1/route-set", `{}`, []string{asJSON}, 400, ""},
		{"set routes that are wrong", "PUT", "/api/v1/route-set", `{"routes":[{"name":"web"}]}`, []string{asJSON}, 400, ""},
		{"set routes with another field", "PUT", "/api/v1/route-set", `{"routes":[{"nam":"web"}]}`, []string{asJSON}, 400, ""},
		{"set routes as a form", "PUT", "/api/v1/route-set", routesBody, []string{"Content-Type: text/plain"}, 415, ""},
		{"try routes", "PUT", "/api/v1/route-set?dry_run=true", routesBody, []string{asJSON}, 200, ""},
		{"try routes perhaps", "PUT", "/api/v1/route-set?dry_run=maybe", routesBody, []string{asJSON}, 400, ""},
		{"reload", "POST", "/api/v1/reload", "", nil, 204, "reload"},
		{"nothing there", "GET", "/api/v2/sessions", "", nil, 404, ""},
		{"not clean", "GET", "//api/v1/status", "", nil, 404, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			w := f.ask(tt.method, tt.path, tt.body, append(tt.fields, "Authorization: Bearer "+f.token)...)
			if w.Code != tt.status {
				t.Errorf("got %d %q, want %d", w.Code, w.Body, tt.status)
			}
			if tt.status >= 400 {
				code(t, w)
			}
			if got := strings.Join(f.server.got(), ", "); got != tt.order {
				t.Errorf("got orders %q, want %q", got, tt.order)
			}
		})
	}
}

func TestReloadSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.server.reload = errors.New("certificates: cert.pem: no such file")
	w := f.ask("POST", "/api/v1/reload", "", "Authorization: Bearer "+f.token)
	if w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), "cert.pem") {
		t.Errorf("got %d %q, want 422 and the file", w.Code, w.Body)
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.server.ready = errors.New("draining")
	if w := f.ask("GET", "/readyz", ""); w.Code != 503 || w.Body.String() != "draining\n" {
		t.Errorf("readyz: got %d %q, want 503 and why", w.Code, w.Body)
	}
	if w := f.ask("GET", "/healthz", ""); w.Code != 200 {
		t.Errorf("healthz: got %d, want 200", w.Code)
	}
	a := newFixture(t, func(o *admin.Options) { o.Server, o.Agent = nil, &fakeAgent{errors.New("reconnecting")} })
	if w := a.ask("GET", "/readyz", ""); w.Code != 503 || w.Body.String() != "reconnecting\n" {
		t.Errorf("readyz of an agent: got %d %q, want 503 and why", w.Code, w.Body)
	}
	if w := a.ask("GET", "/api/v1/sessions", "", "Authorization: Bearer "+a.token); w.Code != 404 {
		t.Errorf("sessions of an agent: got %d, want 404", w.Code)
	}
}

// Pages follow one another without a gap, also when what the last one ended
// with has gone.
func TestPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	var want []string
	for i := range 25 {
		id := fmt.Sprintf("s%02d", i)
		want = append(want, id)
		f.server.sessions = append(f.server.sessions, admin.Session{ID: id})
	}
	slices.Reverse(f.server.sessions)
	var got []string
	after := ""
	for range 10 {
		w := f.ask("GET", "/api/v1/sessions?limit=10&after="+after, "", "Authorization: Bearer "+f.read)
		var page struct {
			Sessions []admin.Session
			Next     string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatal(err)
		}
		for _, s := range page.Sessions {
			got = append(got, s.ID)
		}
		if after = page.Next; after == "" {
			break
		}
		f.server.sessions = slices.DeleteFunc(f.server.sessions, func(s admin.Session) bool { return s.ID == after })
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, limit := range []string{"0", "-1", "10001", "x", "1e3"} {
		if w := f.ask("GET", "/api/v1/sessions?limit="+limit, "", "Authorization: Bearer "+f.read); w.Code != 400 {
			t.Errorf("limit %s: got %d, want 400", limit, w.Code)
		}
	}
	if w := f.ask("GET", "/api/v1/routes", "", "Authorization: Bearer "+f.read); w.Body.String() != `{"routes":[]}`+"\n" {
		t.Errorf("an empty list: got %q", w.Body)
	}
	if w := f.ask("GET", "/api/v1/tunnels?id=db", "", "Authorization: Bearer "+f.read); strings.Contains(w.Body.String(), "web") || !strings.Contains(w.Body.String(), `"port":2000`) {
		t.Errorf("tunnels of one ID: got %q", w.Body)
	}
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	for path, want := range map[string]int{
		"/debug/pprof/goroutine?debug=1":  200,
		"/debug/pprof/heap":               200,
		"/debug/pprof/profile?seconds=1":  200,
		"/debug/pprof/trace?seconds=1":    200,
		"/debug/pprof/cmdline":            404, // it would show arguments
		"/debug/pprof/nothing":            404,
		"/debug/pprof/profile?seconds=0":  400,
		"/debug/pprof/profile?seconds=1h": 400,
		"/debug/pprof/heap?debug=3":       400,
	} {
		if w := f.ask("GET", path, "", "Authorization: Bearer "+f.token); w.Code != want {
			t.Errorf("%s: got %d, want %d", path, w.Code, want)
		} else if want == 200 && w.Body.Len() == 0 {
			t.Errorf("%s: got nothing", path)
		}
	}
	if h, pattern := http.DefaultServeMux.Handler(httptest404()); pattern != "" {
		t.Errorf("profiles are on http.DefaultServeMux too: %v", h)
	}
}

func httptest404() *http.Request {
	r, _ := http.NewRequest("GET", "http://localhost/debug/pprof/", nil)
	return r
}
