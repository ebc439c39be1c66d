package server_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"adit/agent"
	"adit/dialect"
	"adit/ingress"
	"adit/internal/testport"
	"adit/policy"
	"adit/server"
	"adit/tunnel"
)

func encode(t *testing.T, p policy.Policy) []byte {
	t.Helper()
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var here = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// A tunnel's policy is in force from its first visitor on, at each of its
// addresses, and for no other tunnel.
func TestPolicyOfTunnel(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	f := start(t, func(o *server.Options) { o.TCPPorts = []ingress.PortRange{{First: port, Last: port}} })
	login, err := policy.NewLogin("alice", "open sesame")
	if err != nil {
		t.Fatal(err)
	}
	guarded := httpTunnel(t, "guarded", saying(t, "guarded"))
	guarded.Policy = encode(t, policy.Policy{BasicAuth: []policy.Login{login}})
	shut := tcpTunnel(t, "shut", port, echo(t, "hello"))
	shut.Policy = encode(t, policy.Policy{DenyIP: here})
	bound := f.agent(t, nil, guarded, httpTunnel(t, "open", saying(t, "open")), shut).up(t)
	for i, want := range []bool{true, false, true} {
		if bound[i].Policy != want {
			t.Errorf("tunnel %d: the server says that a policy is enforced: %v, want %v", i, bound[i].Policy, want)
		}
	}
	c := f.visitor(t)
	for _, tt := range []struct {
		host, path, user string
		want             int
	}{
		{"open.example.com", "/", "", 200},
		{"guarded.example.com", "/", "", 401},
		{"example.com", "/guarded/", "", 401},
		{"guarded.example.com", "/", "alice", 200},
		{"example.com", "/guarded/", "alice", 200},
		{"guarded.example.com", "/", "bob", 401},
	} {
		req, err := http.NewRequest("GET", "http://"+tt.host+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.user != "" {
			req.SetBasicAuth(tt.user, "open sesame")
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s%s as %q: got %d, want %d", tt.host, tt.path, tt.user, resp.StatusCode, tt.want)
		}
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		if got, err := io.ReadAll(conn); err == nil || len(got) > 0 {
			t.Errorf("the port that is shut says %q, %v", got, err)
		}
	}
	if log := f.log.String(); strings.Contains(log, "open sesame") || strings.Contains(log, "$2a$") {
		t.Error("the log shows a password or its hash")
	}
}

// A policy that the server does not understand is no reason to let everybody
// in: the name is not bound.
func TestPolicyIsRefusedWhole(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	f := start(t, func(o *server.Options) { o.TCPPorts = []ingress.PortRange{{First: port, Last: port}} })
	s, err := f.dialSession(t, f.secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	body := encode(t, policy.Policy{MaxBody: 5})
	for _, tt := range []struct {
		name   string
		kind   dialect.Kind
		policy string
		want   string
	}{
		{"unknown rule", dialect.HTTP, `{"allow_country":["NZ"]}`, "allow_country"},
		{"bad value", dialect.HTTP, `{"allow_ip":["192.0.2.0/24"],"rate":"fast"}`, "fast"},
		{"no JSON", dialect.HTTP, `allow all`, "JSON"},
		{"rule of HTTP for TCP", dialect.TCP, string(body), "max_body"},
	} {
		_, err := s.Bind(t.Context(), dialect.Binding{Key: "k", Kind: tt.kind, ID: "web", Policy: []byte(tt.policy)})
		be, ok := errors.AsType[*dialect.BindError](err)
		if !ok || be.Code != dialect.BindInvalid || !strings.Contains(be.Reason, tt.want) {
			t.Errorf("%s: got %v, want invalid with %q", tt.name, err, tt.want)
		}
	}
	// Nothing is left of them: neither name nor port nor key.
	if status, _ := f.get(t, f.visitor(t), "web.example.com", "/"); status == 200 {
		t.Error("a refused binding has visitors")
	}
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		t.Error("the port of a refused binding is open")
	}
	bound, err := s.Bind(t.Context(), dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "web", Policy: body})
	if err != nil || !bound.Policy {
		t.Errorf("a good policy under the same key: %+v, %v", bound, err)
	}
}

// An agent whose binding is refused for its policy says so and ends.
func TestAgentEndsWithPolicyRefused(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	tun := httpTunnel(t, "web", saying(t, "x"))
	tun.Policy = []byte(`{"allow_country":["NZ"]}`)
	if err := f.agent(t, nil, tun).ended(t); err == nil || !strings.Contains(err.Error(), "allow_country") {
		t.Errorf("the agent ended with %v, want the reason", err)
	}
}

// Agents under one name with the same policy share what it counts.
func TestPolicyIsShared(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	p := encode(t, policy.Policy{Rate: policy.Rate{Count: 1, Per: time.Hour, Burst: 4}})
	for i := range 2 {
		tun := httpTunnel(t, "web", saying(t, fmt.Sprint(i)))
		tun.Policy = p
		f.agent(t, func(o *agent.Options) { o.Instance = fmt.Sprint(i) }, tun).up(t)
	}
	c := f.visitor(t)
	for i, want := range []int{200, 200, 200, 200, 429} {
		if status, _ := f.get(t, c, "web.example.com", "/"); status != want {
			t.Errorf("request %d: got %d, want %d", i+1, status, want)
		}
	}
}

// What the operator sets counts beside it, and can be replaced.
func TestPolicyOfOperator(t *testing.T) {
	t.Parallel()
	f := start(t, func(o *server.Options) { o.Policy = policy.Policy{DenyIP: here} })
	tun := httpTunnel(t, "web", saying(t, "x"))
	tun.Policy = encode(t, policy.Policy{AllowIP: here})
	f.agent(t, nil, tun).up(t) // an agent is no visitor
	c := f.visitor(t)
	for _, tt := range []struct {
		policy *policy.Policy
		want   int
	}{
		{nil, 403},
		{&policy.Policy{}, 200},
		{&policy.Policy{AllowIP: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, 403},
		{&policy.Policy{AllowIP: here}, 200},
	} {
		if tt.policy != nil {
			if err := f.SetPolicy(*tt.policy); err != nil {
				t.Fatal(err)
			}
		}
		if status, _ := f.get(t, c, "web.example.com", "/"); status != tt.want {
			t.Errorf("under %+v: got %d, want %d", tt.policy, status, tt.want)
		}
	}
	login, err := policy.NewLogin("a", "b")
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]policy.Policy{
		"login":   {BasicAuth: []policy.Login{login}},
		"no list": {AllowIP: []netip.Prefix{}},
	} {
		if err := f.SetPolicy(p); err == nil {
			t.Errorf("%s: SetPolicy accepts it", name)
		}
		o := options(t, io.Discard, f.secret)
		o.Policy = p
		if s, err := server.New(o); err == nil {
			t.Errorf("%s: New accepts it: %v", name, s.Addr())
		}
	}
	if status, _ := f.get(t, c, "web.example.com", "/"); status != 200 {
		t.Errorf("after policies that were refused: got %d, want 200", status)
	}
}

// Guards go with the last binding that has them.
func TestPolicyOfUnboundName(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	s, err := f.dialSession(t, f.secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	b := dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: tunnel.ID("web"), Policy: encode(t, policy.Policy{DenyIP: here})}
	for _, want := range []int{403, 502} {
		if _, err := s.Bind(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if want == 502 {
			go func() {
				if c, err := s.Accept(); err == nil {
					c.(tunnel.Incoming).Refuse(tunnel.RefuseUpstreamRefused, "")
				}
			}()
		}
		if status, _ := f.get(t, f.visitor(t), "web.example.com", "/"); status != want {
			t.Errorf("got %d, want %d", status, want)
		}
		if err := s.Unbind(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		b.Policy = nil // the next time
	}
}
