package server_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/admin"
	"adit/agent"
	"adit/dialect"
	"adit/ingress"
	"adit/internal/testport"
	"adit/server"
)

func TestOperatorsSeeWhatThereIs(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	f := start(t, func(o *server.Options) {
		o.TCPPorts, o.Version = []ingress.PortRange{{First: port, Last: port}}, "1.2.3"
	})
	f.agent(t, func(o *agent.Options) { o.Instance = "laptop" },
		httpTunnel(t, "web", saying(t, "web")), tcpTunnel(t, "db", port, echo(t, "hello"))).up(t)

	sessions := f.Sessions()
	if len(sessions) != 1 {
		t.Fatalf("got sessions %+v, want one", sessions)
	}
	s := sessions[0]
	if s.ID == "" || s.Dialect != "native" || s.AgentID != "web" || s.Instance != "laptop" || s.Subject != "secret" ||
		s.State != admin.Available || s.Tunnels != 2 || !strings.HasPrefix(s.Remote, "127.0.0.1:") || time.Since(s.ConnectedAt) > patience {
		t.Errorf("got session %+v", s)
	}
	tunnels := f.Tunnels()
	if len(tunnels) != 2 || tunnels[0].ID != "db" || tunnels[0].Port != port || tunnels[0].Kind != "tcp" ||
		tunnels[1].ID != "web" || tunnels[1].Session != s.ID || len(tunnels[1].URLs) == 0 || tunnels[1].State != admin.Available {
		t.Errorf("got tunnels %+v", tunnels)
	}
	keys := map[string]string{}
	for _, r := range f.Routes() {
		for _, target := range r.Targets {
			keys[r.Key] = target.Session
		}
	}
	if keys["/web"] != s.ID || len(keys) != 2 {
		t.Errorf("got routes %v, want /web and the port to lead to %s", keys, s.ID)
	}
	st := f.Status()
	if !st.Ready || st.Draining || st.Sessions != 1 || st.Tunnels != 2 || st.Version != "1.2.3" || st.URL != f.URL() {
		t.Errorf("got status %+v", st)
	}
}

func TestOperatorClosesSession(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	a := f.agent(t, nil, httpTunnel(t, "web", saying(t, "web")))
	a.up(t)
	before := f.Sessions()[0].ID
	if err := f.CloseSession("nobody"); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("got %v, want %v", err, admin.ErrNotFound)
	}
	if err := f.CloseSession(before); err != nil {
		t.Fatal(err)
	}
	a.up(t) // it comes back
	if after := f.Sessions()[0].ID; after == before {
		t.Error("the session goes on")
	}
}

// A name that is taken down cannot be visited or bound any more, not even after
// a restart, while others of the same agent can.
func TestOperatorBlocksName(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "data", "blocks.json")
	f := start(t, func(o *server.Options) { o.BlockFile = file })
	bad := f.agent(t, nil, httpTunnel(t, "bank", saying(t, "give me your password")))
	bad.up(t)
	f.agent(t, nil, httpTunnel(t, "web", saying(t, "web"))).up(t)
	visitor := f.visitor(t)
	if status, _ := f.get(t, visitor, "bank.example.com", "/"); status != 200 {
		t.Fatalf("before: got %d", status)
	}
	if err := f.Block(admin.Block{Name: "BANK.example.com.", Reason: "phishing"}); err != nil {
		t.Fatal(err)
	}
	for _, at := range [][2]string{{"bank.example.com", "/"}, {"example.com", "/bank/"}} {
		status, body := f.get(t, visitor, at[0], at[1])
		if status != 403 || !strings.Contains(body, "name-blocked") || strings.Contains(body, "phishing") {
			t.Errorf("%s%s: got %d %q, want 403 with name-blocked, and not the reason", at[0], at[1], status, body)
		}
	}
	refused := bad.phase(t, agent.Refused)
	if be, ok := errors.AsType[*dialect.BindError](refused.Err); !ok || be.Code != dialect.BindBlocked {
		t.Errorf("the agent: got %v, want code %s", refused.Err, dialect.BindBlocked)
	}
	if status, _ := f.get(t, visitor, "web.example.com", "/"); status != 200 {
		t.Errorf("another name: got %d, want 200", status)
	}
	for _, name := range []string{"", "a b", "a/b", strings.Repeat("n", 300), "a\x00b"} {
		if err, ok := errors.AsType[*admin.NameError](f.Block(admin.Block{Name: name})); !ok {
			t.Errorf("block %.20q: got %v, want a *NameError", name, err)
		}
	}

	again := start(t, func(o *server.Options) { o.BlockFile = file })
	if got := again.Blocks(); len(got) != 1 || got[0].Name != "bank" || got[0].Reason != "phishing" || got[0].Since.IsZero() {
		t.Errorf("after a restart: got %+v", got)
	}
	if status, _ := again.get(t, again.visitor(t), "bank.example.com", "/"); status != 403 {
		t.Errorf("after a restart: got %d, want 403", status)
	}
	if err := again.Unblock("bank"); err != nil {
		t.Fatal(err)
	}
	if err := again.Unblock("bank"); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("the second time: got %v, want %v", err, admin.ErrNotFound)
	}
	again.agent(t, nil, httpTunnel(t, "bank", saying(t, "sorry"))).up(t)
	if status, _ := again.get(t, again.visitor(t), "bank.example.com", "/"); status != 200 {
		t.Errorf("unblocked: got %d, want 200", status)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
}

// A hostname of an agent's own is blocked however it is written, and so after a
// restart.
func TestOperatorBlocksHostname(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "blocks.json")
	change := func(o *server.Options) { o.BlockFile = file }
	f := start(t, change)
	tun := httpTunnel(t, "shop", saying(t, "shop"))
	tun.Hostnames = []string{"www.shop.test"}
	f.agent(t, nil, tun).up(t)
	if status, _ := f.get(t, f.visitor(t), "www.shop.test", "/"); status != 200 {
		t.Fatalf("before: got %d", status)
	}
	if err := f.Block(admin.Block{Name: "WWW.Shop.Test."}); err != nil {
		t.Fatal(err)
	}
	again := start(t, change)
	for _, s := range []*fixture{f, again} {
		for _, host := range []string{"www.shop.test", "WWW.SHOP.TEST"} {
			if status, _ := s.get(t, s.visitor(t), host, "/"); status != 403 {
				t.Errorf("%s: got %d, want 403", host, status)
			}
		}
	}
	if err := f.Unblock("www.SHOP.test"); err != nil || len(f.Blocks()) != 0 {
		t.Errorf("unblock in another spelling: got %v, and %v are left", err, f.Blocks())
	}
}

func TestBlockFileIsChecked(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"{}", `[{"name":""}]`, `[{"name":"web"}`} {
		file := filepath.Join(t.TempDir(), "blocks.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		opts := options(t, io.Discard)
		opts.BlockFile = file
		if _, err := server.New(opts); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v, want an error that names the file", text, err)
		}
	}
}

// Reload is all or nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	var applied []string
	var wrong error
	part := func(name string, err *error) server.Reloader {
		return server.Reloader{Name: name, Prepare: func() (func(), error) {
			if err != nil && *err != nil {
				return nil, *err
			}
			return func() { applied = append(applied, name) }, nil
		}}
	}
	f := start(t, func(o *server.Options) {
		o.Reload = []server.Reloader{part("certificates", nil), part("tokens", &wrong), part("policies", &wrong)}
	})
	wrong = errors.New("no such file")
	err := f.Reload()
	if err == nil || !strings.Contains(err.Error(), "tokens: no such file") || !strings.Contains(err.Error(), "policies: no such file") {
		t.Errorf("got %v, want all that is wrong", err)
	}
	if len(applied) > 0 {
		t.Errorf("%v changed", applied)
	}
	wrong = nil
	if err := f.Reload(); err != nil || strings.Join(applied, " ") != "certificates tokens policies" {
		t.Errorf("got %v, applied %v", err, applied)
	}
}

func TestHealthOnThePublicAddress(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	visitor := f.visitor(t)
	for _, path := range []string{"/_adit/healthz", "/_adit/readyz"} {
		if status, body := f.get(t, visitor, "10.0.0.1", path); status != 200 || body != "ok\n" {
			t.Errorf("%s: got %d %q", path, status, body)
		}
		resp, err := visitor.Post("http://example.com"+path, "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("POST %s: got %s, want 404", path, resp.Status)
		}
	}
}
