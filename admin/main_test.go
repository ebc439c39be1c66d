package admin_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/admin"
	"adit/auth"
	"adit/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// A fakeServer remembers the orders that it got.
type fakeServer struct {
	ready    error
	reload   error
	sessions []admin.Session

	mu     sync.Mutex
	orders []string
}

func (s *fakeServer) order(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.orders = append(s.orders, what)
}

func (s *fakeServer) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.orders)
}

func (s *fakeServer) Ready() error         { return s.ready }
func (s *fakeServer) Status() admin.Status { return admin.Status{Version: "1.2.3"} }
func (s *fakeServer) Sessions() []admin.Session {
	if s.sessions == nil {
		return []admin.Session{{ID: "one", Subject: "alice"}, {ID: "two", Subject: "bob"}}
	}
	return slices.Clone(s.sessions)
}

func (s *fakeServer) Tunnels() []admin.Tunnel {
	return []admin.Tunnel{{ID: "web", Kind: "http", Session: "one"}, {ID: "db", Kind: "tcp", Port: 2000, Session: "two"}}
}
func (s *fakeServer) Routes() []admin.Route { return nil }
func (s *fakeServer) CloseSession(id string) error {
	if id != "one" && id != "two" {
		return admin.ErrNotFound
	}
	s.order("close " + id)
	return nil
}
func (s *fakeServer) Blocks() []admin.Block { return nil }
func (s *fakeServer) Block(b admin.Block) error {
	if b.Name == "" {
		return &admin.NameError{Reason: "name is empty"}
	}
	s.order("block " + b.Name + " for " + b.Reason)
	return nil
}

func (s *fakeServer) Unblock(name string) error {
	if name != "web" {
		return admin.ErrNotFound
	}
	s.order("unblock " + name)
	return nil
}

func (s *fakeServer) RouteSet() admin.RouteSet {
	return admin.RouteSet{Routes: []route.Rule{}, Revision: "one", Source: admin.RoutesOfAPI}
}

func (s *fakeServer) SetRoutes(rules []route.Rule, of string, dryRun bool) ([]route.Change, error) {
	if of != "" && of != "one" {
		return nil, &admin.RouteSetError{Code: admin.RoutesChanged, Reason: "they have changed"}
	}
	checked, err := route.CheckRules(rules, "example.com")
	if err != nil {
		return nil, &admin.RouteSetError{Code: admin.RoutesInvalid, Reason: err.Error()}
	}
	if !dryRun {
		s.order(fmt.Sprintf("%d routes", len(rules)))
	}
	return route.Diff(nil, checked), nil
}

func (s *fakeServer) Reload() error {
	if s.reload == nil {
		s.order("reload")
	}
	return s.reload
}

type fakeAgent struct{ ready error }

func (a *fakeAgent) Ready() error { return a.ready }
func (a *fakeAgent) AgentStatus() admin.AgentStatus {
	return admin.AgentStatus{Phase: "connected"}
}

// A fixture is a handler with what is behind it.
type fixture struct {
	server *fakeServer
	token  string
	read   string
	log    strings.Builder
	http.Handler
}

// newFixture returns a handler with two tokens, which change may change.
func newFixture(t *testing.T, change func(*admin.Options)) *fixture {
	t.Helper()
	token, read := auth.NewSecret(), auth.NewSecret()
	f := &fixture{server: &fakeServer{}, token: token.Reveal(), read: read.Reveal()}
	opts := admin.Options{
		Server:    f.server,
		Token:     token,
		ReadToken: read,
		Metrics:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "adit_up 1\n") }),
		Logger:    slog.New(slog.NewJSONHandler(&f.log, nil)),
	}
	if change != nil {
		change(&opts)
	}
	h, err := admin.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	f.Handler = h
	return f
}

// ask sends a request. Each of fields is a header field as "Name: value".
func (f *fixture) ask(method, target, body string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:9090"+target, strings.NewReader(body))
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}

// code is the code of an answer that is an error.
func code(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var e struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Error.Message == "" {
		t.Errorf("got %q, want an error in JSON", w.Body)
	}
	return e.Error.Code
}
