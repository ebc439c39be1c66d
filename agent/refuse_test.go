package agent_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/tunnel"
)

// binds grants every binding.
type binds struct{}

func (binds) Bind(context.Context, dialect.Binding) (dialect.Bound, error) {
	return dialect.Bound{URLs: []string{"http://web.test/"}}, nil
}
func (binds) Unbind(context.Context, string) error      { return nil }
func (binds) Refresh(context.Context, auth.Claim) error { return nil }

// bareServer lets every agent in, and bind every name: its answer does not mention
// the policy.
func bareServer(t *testing.T) (url string, tunnels <-chan tunnel.Tunnel) {
	t.Helper()
	d := native.New(native.Options{})
	came := make(chan tunnel.Tunnel, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tun, err := d.Accept(w, r, func(context.Context, auth.Claim) (*auth.Identity, error) {
			return &auth.Identity{Subject: "s"}, nil
		})
		if err != nil {
			return
		}
		tun.(dialect.Binder).ServeBinds(binds{})
		came <- tun
	}))
	t.Cleanup(srv.Close)
	return srv.URL, came
}

// TestRefusalCodes opens streams that the agent must refuse, as a server that
// sees the codes themselves.
func TestRefusalCodes(t *testing.T) {
	t.Parallel()
	url, tunnels := bareServer(t)
	r := run(t, agent.Options{
		Server: url,
		Tunnels: []agent.Tunnel{
			{ID: "closed", Kind: dialect.HTTP, Upstream: upstream(t, "127.0.0.1:1")},
			{ID: "nosocket", Kind: dialect.HTTP, Upstream: upstream(t, "unix:/nonexistent/app.sock")},
			{ID: "echo", Kind: dialect.HTTP, Upstream: upstream(t, echoUpstream(t))},
		},
	})
	r.until(agent.Connected)
	tun := <-tunnels
	defer tun.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, tt := range []struct {
		service string
		want    tunnel.RefuseCode
	}{
		{"", tunnel.RefuseUpstreamRefused},
		{"1", tunnel.RefuseUpstreamRefused},
		{"3", tunnel.RefuseUnknownService},
		{"no such thing", tunnel.RefuseUnknownService},
	} {
		_, err := tun.OpenStream(ctx, tunnel.StreamInfo{Service: tt.service})
		var re *tunnel.RefusedError
		if !errors.As(err, &re) || re.Code != tt.want {
			t.Errorf("OpenStream to service %q: %v, want a refusal with %v", tt.service, err, tt.want)
		}
	}
	c, err := tun.OpenStream(ctx, tunnel.StreamInfo{Service: "2"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo(t, c, "hello")
}

// A server that binds a name and knows nothing of its policy lets everybody in:
// the agent ends the session, and does not try again.
func TestServerWithoutPolicies(t *testing.T) {
	t.Parallel()
	url, tunnels := bareServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := agent.Run(ctx, agent.Options{
		Server: url,
		Token:  func() (string, error) { return "t", nil },
		Tunnels: []agent.Tunnel{
			{ID: "web", Kind: dialect.HTTP, Upstream: upstream(t, "127.0.0.1:1"), Policy: []byte(`{"max_body":1}`)},
		},
	})
	be, ok := errors.AsType[*dialect.BindError](err)
	if !ok || be.Code != dialect.BindInvalid {
		t.Errorf("Run: %v, want a BindError", err)
	}
	tun := <-tunnels
	<-tun.Done()
	tun.Close()
}
