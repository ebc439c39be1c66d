package server_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/auth"
	"adit/dialect/websocktunnel"
	"adit/policy"
	"adit/server"
	"adit/tunnel"
)

// anyToken accepts every token for what the claim asks, on behalf of subject.
type anyToken struct{ subject string }

func (a anyToken) Authenticate(_ context.Context, c auth.Claim) (*auth.Identity, error) {
	if c.Token != "good" {
		return nil, &auth.Error{Code: auth.InvalidCredential, Reason: "it is not good"}
	}
	return &auth.Identity{Subject: a.subject, Scope: auth.Scope{IDs: []string{c.ID}}}, nil
}

// withRegistrants is a server that takes agents of websocktunnel too.
func withRegistrants(subject string) func(*server.Options) {
	return func(o *server.Options) {
		o.Dialects = append(o.Dialects, websocktunnel.New(websocktunnel.Options{Auth: anyToken{subject}}))
		o.MaxAgentsPerSubject = 1
	}
}

// registrant starts an agent of websocktunnel that answers with text.
func (f *fixture) registrant(t *testing.T, id, token, text string) (*websocktunnel.Listener, error) {
	t.Helper()
	l, err := websocktunnel.Listen(t.Context(), websocktunnel.ListenOptions{
		Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
			return websocktunnel.Config{ID: id, Server: "http://" + f.Addr().String(), Token: token}, nil
		},
		Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
		Retry: websocktunnel.Retry{Initial: 10 * time.Millisecond, Total: time.Second},
	})
	if err != nil {
		return nil, err
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(text + " " + r.Header.Get("X-Websocktunnel-Original-Path")))
	}))
	srv.Listener.Close()
	srv.Listener = l
	go srv.Config.Serve(l)
	t.Cleanup(func() { f.stop(); srv.Config.Close(); l.Close() })
	return l, nil
}

// An agent of another dialect has its one name as soon as it hears that it is
// connected, and the newest one has it alone.
func TestRegistrant(t *testing.T) {
	t.Parallel()
	f := start(t, withRegistrants("ci"))
	visitor := f.visitor(t)
	first, err := f.registrant(t, "task", "good", "first")
	if err != nil {
		t.Fatal(err)
	}
	if want := "http://task.example.com:"; !strings.HasPrefix(first.URL(), want) || strings.HasSuffix(first.URL(), "/") {
		t.Errorf("URL: got %q, want one that begins with %q", first.URL(), want)
	}
	if status, body := f.get(t, visitor, "task.example.com", "/a%20b?c"); status != 200 || body != "first /a b" {
		t.Errorf("got %d %q, want the first agent's answer with the path", status, body)
	}
	if _, err := f.registrant(t, "task", "good", "second"); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if status, body := f.get(t, visitor, "example.com", "/task/x"); status != 200 || body != "second /task/x" {
			t.Errorf("got %d %q, want the second agent's answer", status, body)
		}
	}
	if _, err := f.registrant(t, "other", "good", "other"); err != nil {
		t.Errorf("another ID of the same subject: %v; the limit of agents is not for it", err)
	}
	if _, err := f.registrant(t, "task", "bad", "third"); !errors.Is(err, websocktunnel.ErrAuthFailed) {
		t.Errorf("bad token: got %v, want %v", err, websocktunnel.ErrAuthFailed)
	}
	if status, _ := f.get(t, visitor, "task.example.com", "/"); status != 200 {
		t.Errorf("after a bad token: got %d, want 200", status)
	}
	f.logs(t, "agent gone") // the first one, which is told why
	sessions := f.Sessions()
	ids := []string{}
	for _, s := range sessions {
		ids = append(ids, s.AgentID+" "+s.Dialect)
	}
	slices.Sort(ids)
	if got := strings.Join(ids, ", "); got != "other websocktunnel, task websocktunnel" {
		t.Errorf("sessions: %s", got)
	}
}

// Agents of two dialects share a name if their credentials have the same
// subject, and do not if not.
func TestRegistrantSharesName(t *testing.T) {
	t.Parallel()
	f := start(t, withRegistrants(auth.SecretSubject))
	native := f.agent(t, nil, httpTunnel(t, "web", saying(t, "native")))
	native.up(t)
	theirs, err := f.registrant(t, "web", "good", "wst")
	if err != nil {
		t.Fatal(err)
	}
	visitor := f.visitor(t)
	meet := func(when string, want ...string) {
		t.Helper()
		met := map[string]bool{}
		for range 6 {
			status, body := f.get(t, visitor, "web.example.com", "/")
			if status != 200 {
				t.Fatalf("%s: got %d %q", when, status, body)
			}
			met[strings.Fields(body)[0]] = true
		}
		if got := slices.Sorted(maps.Keys(met)); !slices.Equal(got, want) {
			t.Errorf("%s: visitors met %v, want %v", when, got, want)
		}
	}
	meet("both are there", "native", "wst")
	native.stop()
	meet("the native one left", "wst")
	f.agent(t, nil, httpTunnel(t, "web", saying(t, "native"))).up(t)
	meet("it came back", "native", "wst")
	theirs.Close()
	meet("the other one left", "native")
	if _, err := f.registrant(t, "web", "good", "wst"); err != nil {
		t.Fatal(err)
	}
	meet("that came back too", "native", "wst")

	f = start(t, withRegistrants("somebody else"))
	f.agent(t, nil, httpTunnel(t, "web", saying(t, "native"))).up(t)
	_, err = f.registrant(t, "web", "good", "wst")
	se, ok := errors.AsType[*websocktunnel.StatusError](err)
	if !ok || se.Code != http.StatusForbidden {
		t.Errorf("a name of somebody else: got %v, want status 403", err)
	}
	if status, body := f.get(t, f.visitor(t), "web.example.com", "/"); status != 200 || !strings.HasPrefix(body, "native") {
		t.Errorf("got %d %q, want the native agent's answer", status, body)
	}
}

// An ID that is no label of a hostname needs paths.
func TestRegistrantWithOddID(t *testing.T) {
	t.Parallel()
	f := start(t, withRegistrants("ci"))
	l, err := f.registrant(t, "Task_1~x", "good", "odd")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(l.URL(), "/Task_1~x") {
		t.Errorf("URL: got %q, want a path", l.URL())
	}
	if status, body := f.get(t, f.visitor(t), "example.com", "/Task_1~x/y"); status != 200 || body != "odd /Task_1~x/y" {
		t.Errorf("got %d %q", status, body)
	}
	f = start(t, func(o *server.Options) { withRegistrants("ci")(o); o.PathMode = false })
	if _, err := f.registrant(t, "Task_1~x", "good", "odd"); err == nil {
		t.Error("without paths: got no error")
	}
}

// The operator's rules for visitors of agents that cannot have any.
func TestRegistrantPolicy(t *testing.T) {
	t.Parallel()
	f := start(t, func(o *server.Options) {
		withRegistrants("ci")(o)
		o.RegistrantPolicy = func(id tunnel.ID) (p policy.Policy, err error) {
			switch id {
			case "closed":
				p.DenyIP = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
			case "broken":
				err = errors.New("no rules today")
			}
			return p, err
		}
	})
	for _, id := range []string{"open", "closed"} {
		if _, err := f.registrant(t, id, "good", id); err != nil {
			t.Fatal(err)
		}
	}
	visitor := f.visitor(t)
	if status, _ := f.get(t, visitor, "open.example.com", "/"); status != 200 {
		t.Errorf("an ID without rules: got %d, want 200", status)
	}
	if status, _ := f.get(t, visitor, "closed.example.com", "/"); status != 403 {
		t.Errorf("an ID that nobody may visit: got %d, want 403", status)
	}
	if _, err := f.registrant(t, "broken", "good", "broken"); err == nil {
		t.Error("an agent is there without the rules for it")
	}
	if status, _ := f.get(t, visitor, "broken.example.com", "/"); status != 404 {
		t.Errorf("an ID whose agent was turned away: got %d, want 404", status)
	}
}
