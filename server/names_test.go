package server_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/ingress"
	"adit/internal/testlog"
	"adit/internal/testport"
	"adit/server"
	"adit/tunnel"
)

func TestVisitorsReachNames(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		change   func(*server.Options)
		urls     string // PORT is the server's
		host     string
		path     string
		status   int
		upstream string // what answers, if status is 200
	}{
		{"by hostname", nil, "http://web.example.com:PORT/ http://example.com:PORT/web/", "web.example.com", "/a/b", 200, "web /a/b"},
		{"by path", nil, "http://web.example.com:PORT/ http://example.com:PORT/web/", "example.com", "/web/a/b", 200, "web /a/b"},
		{"by path at an address", nil, "http://web.example.com:PORT/ http://example.com:PORT/web/", "127.0.0.1", "/web/", 200, "web /"},
		{"hostname alone", func(o *server.Options) { o.PathMode = false }, "http://web.example.com:PORT/", "web.example.com", "/", 200, "web /"},
		{"hostname alone, by path", func(o *server.Options) { o.PathMode = false }, "http://web.example.com:PORT/", "example.com", "/web/", 404, ""},
		{"path alone", func(o *server.Options) { o.Domain = "" }, "http://127.0.0.1:PORT/web/ http://web.localhost:PORT/", "127.0.0.1", "/web/", 200, "web /"},
		{"localhost without a domain", func(o *server.Options) { o.Domain = "" }, "http://127.0.0.1:PORT/web/ http://web.localhost:PORT/", "web.localhost", "/x", 200, "web /x"},
		{"localhost as the domain", func(o *server.Options) { o.Domain = "localhost" }, "http://web.localhost:PORT/ http://localhost:PORT/web/", "web.localhost", "/", 200, "web /"},
		{"public URL", func(o *server.Options) { o.PublicURL = "https://Proxy.example.org/" },
			"https://web.example.com/ https://proxy.example.org/web/", "proxy.example.org", "/web/", 200, "web /"},
		{"public URL with a port", func(o *server.Options) { o.Domain, o.PublicURL = "", "https://proxy.example.org:8443" },
			"https://proxy.example.org:8443/web/", "proxy.example.org", "/web/", 200, "web /"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, func(o *server.Options) {
				o.Hold = -1
				if tt.change != nil {
					tt.change(o)
				}
			})
			bound := f.agent(t, nil, httpTunnel(t, "web", saying(t, "web"))).up(t)
			_, port, _ := net.SplitHostPort(f.Addr().String())
			if got, want := strings.Join(bound[0].URLs, " "), strings.ReplaceAll(tt.urls, "PORT", port); got != want {
				t.Errorf("got the addresses %q, want %q", got, want)
			}
			status, body := f.get(t, f.visitor(t), tt.host, tt.path)
			if status != tt.status || status == 200 && body != tt.upstream {
				t.Errorf("got %d %q, want %d %q", status, body, tt.status, tt.upstream)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*server.Options)
		want   string // in the error
	}{
		{"no authenticator", func(o *server.Options) { o.Auth = nil }, "authenticator"},
		{"no dialect", func(o *server.Options) { o.Dialects = nil }, "dialects"},
		{"no names", func(o *server.Options) { o.Domain, o.PathMode = "", false }, "neither a domain nor paths"},
		{"domain with a port", func(o *server.Options) { o.Domain = "example.com:80" }, `domain "example.com:80"`},
		{"domain in upper case", func(o *server.Options) { o.Domain = "Example.com" }, `domain "Example.com"`},
		{"domain that is an address", func(o *server.Options) { o.Domain = "127.0.0.1" }, `domain "127.0.0.1" is an address`},
		{"domain that is too long", func(o *server.Options) { o.Domain = strings.Repeat("a.", 100) + "example" }, "takes at most"},
		{"public URL with a path", func(o *server.Options) { o.PublicURL = "https://example.com/adit" }, `public URL "https://example.com/adit"`},
		{"public URL of another scheme", func(o *server.Options) { o.PublicURL = "wss://example.com" }, `public URL "wss://example.com"`},
		{"public URL without scheme", func(o *server.Options) { o.PublicURL = "example.com" }, `public URL "example.com"`},
		{"public URL without host", func(o *server.Options) { o.PublicURL = "https://:443" }, `public URL "https://:443"`},
		{"public URL with a password", func(o *server.Options) { o.PublicURL = "https://me:hidden@example.com" }, `public URL "…@example.com"`},
		{"no port", func(o *server.Options) { o.Listen = "127.0.0.1" }, "127.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			opts := options(t, &testlog.Log{}, auth.NewSecret())
			tt.change(&opts)
			_, err := server.New(opts)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hidden") {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestNewRefusesAddressInUse(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	opts := options(t, &testlog.Log{}, auth.NewSecret())
	opts.Listen = f.Addr().String()
	if _, err := server.New(opts); err == nil || !strings.Contains(err.Error(), opts.Listen) {
		t.Errorf("got error %v, want one with %s", err, opts.Listen)
	}
}

func TestRunTwice(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.agent(t, nil, httpTunnel(t, "web", saying(t, "web"))).up(t) // it runs
	if err := f.Run(t.Context()); err == nil {
		t.Error("a second Run returned nil, want an error")
	}
	if status, _ := f.get(t, f.visitor(t), "web.example.com", "/"); status != 200 {
		t.Errorf("after the second Run: got status %d, want 200", status)
	}
}

func TestBindRefusals(t *testing.T) {
	t.Parallel()
	foreign, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { foreign.Close() })
	inUse := uint16(foreign.Addr().(*net.TCPAddr).Port)
	open, other := testport.One(t), testport.One(t)
	f := start(t, func(o *server.Options) {
		o.TCPPorts = []ingress.PortRange{{First: inUse, Last: inUse}, {First: open, Last: open}, {First: other, Last: other}}
		o.UDPPorts = []ingress.PortRange{{First: other, Last: other}}
	})
	wide := start(t, func(o *server.Options) {
		o.Listen = ":0"
		o.TCPPorts = []ingress.PortRange{{First: open, Last: open}}
		o.UDPPorts = o.TCPPorts
	})
	loopback := netip.MustParseAddr("127.0.0.1")
	none := start(t, nil) // gives out no ports
	full := start(t, func(o *server.Options) { o.TCPPorts = []ingress.PortRange{{First: inUse, Last: inUse}} })
	proxied := start(t, func(o *server.Options) { o.PublicURL = "https://proxy.example.org" })
	scoped := auth.TokenClaims{Subject: "me", Scope: auth.Scope{
		IDs:       []string{"mine-*"},
		Hostnames: []string{"*.example.org"},
		Ports:     []auth.PortRange{{First: other, Last: other}},
	}}
	idsOnly := auth.TokenClaims{Subject: "me", Scope: auth.Scope{IDs: []string{"*"}}}
	everything := auth.TokenClaims{Subject: "me", Scope: auth.Everything()}

	for _, tt := range []struct {
		name  string
		on    *fixture
		token func(f *fixture) string
		bind  dialect.Binding
		code  dialect.BindCode
		want  string // in the reason
	}{
		{"id not in the scope", f, tokenOf(t, scoped), dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "yours"}, dialect.BindForbidden, `"yours"`},
		{"port not in the scope", f, tokenOf(t, scoped), dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "mine-a", Port: open}, dialect.BindForbidden, "port"},
		{"port not given out", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "a", Port: 1}, dialect.BindForbidden, "port 1: this server gives out the TCP ports "},
		{"port without any given out", none, secretOf, dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "a", Port: 1}, dialect.BindForbidden, "no TCP ports (its operator sets --tcp-ports)"},
		{"any port without any given out", none, secretOf, dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "a"}, dialect.BindNoPort, "no TCP ports"},
		{"port of another program", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "a", Port: inUse}, dialect.BindPortInUse, "in use"},
		{"no port left", full, secretOf, dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "a"}, dialect.BindNoPort, "no port is free"},
		{"hostname not in the scope", f, tokenOf(t, scoped), dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "mine-a", Hostnames: []string{"app.example.org", "app.evil.test"}}, dialect.BindForbidden, `"app.evil.test"`},
		{"hostname without any in the scope", f, tokenOf(t, idsOnly), dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Hostnames: []string{"app.example.org"}}, dialect.BindForbidden, `"app.example.org"`},
		{"hostname in another spelling", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Hostnames: []string{"App.example.org"}}, dialect.BindInvalid, `"App.example.org"`},
		{"hostname with a dot too many", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Hostnames: []string{"app.example.org."}}, dialect.BindInvalid, `"app.example.org."`},
		{"hostname that is a pattern", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Hostnames: []string{"*.example.org"}}, dialect.BindInvalid, `"*.example.org"`},
		{"hostname that is an address", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Hostnames: []string{"127.0.0.1"}}, dialect.BindInvalid, `"127.0.0.1"`},
		{"hostname of another id", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Hostnames: []string{"b.example.com"}}, dialect.BindInvalid, "go with ids"},
		{"hostname of a reserved id", f, tokenOf(t, everything), dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Hostnames: []string{"www.example.com"}}, dialect.BindInvalid, "go with ids"},
		{"hostname of the server", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Hostnames: []string{"example.com"}}, dialect.BindInvalid, "go with ids"},
		{"hostname of the server outside its domain", proxied, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Hostnames: []string{"proxy.example.org"}}, dialect.BindInvalid, "own"},
		{"hostname for TCP", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "a", Hostnames: []string{"app.example.org"}}, dialect.BindInvalid, "no hostnames"},
		{"malformed id", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "Web"}, dialect.BindInvalid, `"Web"`},
		{"reserved id", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "www"}, dialect.BindInvalid, "reserved"},
		{"empty id", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP}, dialect.BindInvalid, "id is empty"},
		{"unknown kind", f, secretOf, dialect.Binding{Key: "k", Kind: "sctp", ID: "a"}, dialect.BindInvalid, `kind "sctp": http, tcp, tls, udp and service`},
		{"UDP port with a scope of TCP ports", f, tokenOf(t, scoped), dialect.Binding{Key: "k", Kind: dialect.UDP, ID: "mine-a", Port: other}, dialect.BindForbidden, "UDP port"},
		{"any UDP port with a scope of TCP ports", f, tokenOf(t, scoped), dialect.Binding{Key: "k", Kind: dialect.UDP, ID: "mine-a"}, dialect.BindNoPort, "the UDP ports"},
		{"UDP port not given out", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.UDP, ID: "a", Port: 1}, dialect.BindForbidden, "port 1: this server gives out the UDP ports "},
		{"UDP port without any given out", full, secretOf, dialect.Binding{Key: "k", Kind: dialect.UDP, ID: "a", Port: inUse}, dialect.BindForbidden, "no UDP ports (its operator sets --udp-ports)"},
		{"hostname for UDP", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.UDP, ID: "a", Hostnames: []string{"app.example.org"}}, dialect.BindInvalid, "no hostnames"},
		{"HTTP/2 for UDP", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.UDP, ID: "a", HTTP2: true}, dialect.BindInvalid, "only http"},
		{"address for HTTP", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Addr: loopback}, dialect.BindInvalid, "only tcp and udp"},
		{"address for a service", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.Service, ID: "a", Name: "x", Addr: loopback}, dialect.BindInvalid, "only tcp and udp"},
		{"another address than the server's", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "a", Port: open, Addr: netip.MustParseAddr("127.0.0.2")}, dialect.BindForbidden, "on 127.0.0.1 alone"},
		{"all addresses of a server with one", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.UDP, ID: "a", Port: other, Addr: netip.IPv4Unspecified()}, dialect.BindForbidden, "on 127.0.0.1 alone"},
		{"address of somebody else", wide, secretOf, dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "a", Addr: netip.MustParseAddr("192.0.2.1")}, dialect.BindInvalid, "the server has no such address"},
		{"address of somebody else for UDP", wide, secretOf, dialect.Binding{Key: "k", Kind: dialect.UDP, ID: "a", Addr: netip.MustParseAddr("192.0.2.1")}, dialect.BindInvalid, "the server has no such address"},
		{"multicast address", wide, secretOf, dialect.Binding{Key: "k", Kind: dialect.UDP, ID: "a", Addr: netip.MustParseAddr("224.0.0.1")}, dialect.BindInvalid, "224.0.0.1"},
		{"link-local address", wide, secretOf, dialect.Binding{Key: "k", Kind: dialect.UDP, ID: "a", Addr: netip.MustParseAddr("fe80::1")}, dialect.BindInvalid, "fe80::1"},
		{"port for HTTP", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Port: open}, dialect.BindInvalid, "only tcp and udp have ports"},
		{"no key", f, secretOf, dialect.Binding{Kind: dialect.HTTP, ID: "a"}, dialect.BindInvalid, "1 to 64"},
		{"long key", f, secretOf, dialect.Binding{Key: strings.Repeat("k", 65), Kind: dialect.HTTP, ID: "a"}, dialect.BindInvalid, "1 to 64"},
		{"long service", f, secretOf, dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "a", Service: strings.Repeat("s", 256)}, dialect.BindInvalid, "at most 255"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := tt.on.dialSession(t, tt.token(tt.on))
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Bind(t.Context(), tt.bind)
			be, ok := errors.AsType[*dialect.BindError](err)
			if !ok || be.Code != tt.code || !strings.Contains(be.Reason, tt.want) {
				t.Errorf("got %v, want code %s and a reason with %q", err, tt.code, tt.want)
			}
		})
	}
}

func secretOf(f *fixture) string { return f.secret.Reveal() }

func tokenOf(t *testing.T, c auth.TokenClaims) func(*fixture) string {
	return func(f *fixture) string { return f.mint(t, c) }
}

func TestPublicPorts(t *testing.T) {
	t.Parallel()
	// Ports below those that the system gives to conns of other tests.
	r := ingress.PortRange{First: 20100, Last: 20139}
	f := start(t, func(o *server.Options) { o.TCPPorts = []ingress.PortRange{r} })
	bind := func(s interface {
		Bind(context.Context, dialect.Binding) (dialect.Bound, error)
	}, key string, id tunnel.ID, port uint16) (dialect.Bound, error) {
		return s.Bind(t.Context(), dialect.Binding{Key: key, Kind: dialect.TCP, ID: id, Port: port})
	}
	s, err := f.dialSession(t, f.secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	one, err := bind(s, "1", "ssh", 0)
	if err != nil {
		t.Fatal(err)
	}
	if one.Port < r.First || one.Port > r.Last || one.Addr.Port() != one.Port ||
		len(one.URLs) != 1 || !strings.HasPrefix(one.URLs[0], "tcp://example.com:") {
		t.Errorf("got %+v, want a port of %v and its address", one, r)
	}
	two, err := bind(s, "2", "ssh", 0)
	if err != nil || two.Port == one.Port {
		t.Errorf("a second tunnel of the session: got port %d, %v, want another than %d", two.Port, err, one.Port)
	}
	// Whoever comes after it under the same ID has the same port.
	again, err := f.dialSession(t, f.secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := bind(again, "1", "ssh", 0); err != nil || got.Port != one.Port {
		t.Errorf("another session: got port %d, %v, want %d", got.Port, err, one.Port)
	}
	if _, err := bind(again, "3", "db", one.Port); err == nil {
		t.Error("two IDs share a port")
	}
	if _, err := bind(again, "1", "ssh", 0); err == nil {
		t.Error("two names have one key")
	}
	for _, key := range []string{"1", "2"} {
		if err := s.Unbind(t.Context(), key); err != nil {
			t.Errorf("Unbind: %v", err)
		}
	}
	if err := s.Unbind(t.Context(), "1"); err == nil {
		t.Error("a name was unbound twice")
	}
	foreign, err := f.dialSession(t, f.mint(t, auth.TokenClaims{Subject: "me", Scope: auth.Everything()}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bind(foreign, "3", "db", two.Port); err == nil {
		t.Error("a port was given away before its hold time was over")
	}
}

func TestVisitorsReachPublicPort(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	f := start(t, func(o *server.Options) { o.TCPPorts = []ingress.PortRange{{First: port, Last: port}} })
	bound := f.agent(t, nil, tcpTunnel(t, "echo", port, echo(t, "hello"))).up(t)
	if bound[0].Port != port {
		t.Errorf("got port %d, want %d", bound[0].Port, port)
	}
	if got := dialTCP(t, port, 5); got != "hello" {
		t.Errorf("got greeting %q, want %q", got, "hello")
	}
	f.agent(t, func(o *agent.Options) { o.Instance = "second" }, tcpTunnel(t, "echo", port, echo(t, "there"))).up(t)
	met := map[string]int{}
	for range 4 {
		met[dialTCP(t, port, 5)]++
	}
	if met["hello"] != 2 || met["there"] != 2 {
		t.Errorf("got greetings %v, want each agent's in turn", met)
	}
}

func TestVisitorsReachHostnames(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.agent(t, nil, httpTunnel(t, "web", saying(t, "web"))).up(t)
	claims := auth.TokenClaims{Subject: "me", Scope: auth.Scope{IDs: []string{"app"}, Hostnames: []string{"app.example.org", "*.example.net"}}}
	s, err := f.dialSession(t, f.mint(t, claims))
	if err != nil {
		t.Fatal(err)
	}
	go refuseAll(s)
	b := dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "app", Hostnames: []string{"app.example.org", "a.example.net"}}
	bound, err := s.Bind(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(f.Addr().String())
	if got, want := bound.URLs[:2], "[http://app.example.org:"+port+"/ http://a.example.net:"+port+"/]"; fmt.Sprint(got) != want {
		t.Errorf("got the addresses %v, want %s first", bound.URLs, want)
	}
	visitor := f.visitor(t)
	for host, want := range map[string]int{"app.example.org": 502, "a.example.net": 502, "APP.example.org": 502, "b.example.net": 404, "app.example.com": 502} {
		if status, body := f.get(t, visitor, host, "/"); status != want {
			t.Errorf("%s: got %d %q, want %d", host, status, body, want)
		}
	}

	// Nobody else gets them, and a new credential has to allow them.
	other, err := f.dialSession(t, f.mint(t, auth.TokenClaims{Subject: "other", Scope: auth.Everything()}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Bind(t.Context(), dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "b", Hostnames: []string{"b.example.net", "a.example.net"}})
	if be, ok := errors.AsType[*dialect.BindError](err); !ok || be.Code != dialect.BindTaken || !strings.Contains(be.Reason, `"a.example.net"`) {
		t.Errorf("got %v, want code %s and the hostname", err, dialect.BindTaken)
	}
	if status, _ := f.get(t, visitor, "b.example.net", "/"); status != 404 {
		t.Error("a refused binding has been applied in part")
	}
	claims.Scope.Hostnames = []string{"app.example.org"}
	if err := s.Refresh(t.Context(), f.mint(t, claims)); err == nil || !strings.Contains(err.Error(), `"a.example.net"`) {
		t.Errorf("refresh with a narrower scope: got %v, want an error with the hostname", err)
	}
}

// refuseAll refuses the streams of a session until it ends.
func refuseAll(s *native.Session) {
	for {
		c, err := s.Accept()
		if err != nil {
			return
		}
		c.(tunnel.Incoming).Refuse(tunnel.RefuseUpstreamRefused, "")
	}
}

func TestNameTakenByAnotherSubject(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	claims := auth.TokenClaims{Subject: "first", Scope: auth.Scope{IDs: []string{"*"}}}
	withToken := func(token string) func(*agent.Options) {
		return func(o *agent.Options) { o.Token = func() (string, error) { return token, nil } }
	}
	first := f.agent(t, withToken(f.mint(t, claims)), httpTunnel(t, "web", saying(t, "first")))
	first.up(t)
	claims.Subject = "second"
	second := f.agent(t, withToken(f.mint(t, claims)), httpTunnel(t, "web", saying(t, "second")))
	err := second.phase(t, agent.Refused).Err
	if be, ok := errors.AsType[*dialect.BindError](err); !ok || be.Code != dialect.BindTaken {
		t.Errorf("got error %v, want code %s", err, dialect.BindTaken)
	}
	if _, body := f.get(t, f.visitor(t), "web.example.com", "/"); body != "first /" {
		t.Errorf("got %q, want the first agent's answer", body)
	}
}
