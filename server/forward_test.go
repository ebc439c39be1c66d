package server_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/testtcp"
	"adit/server"
	"adit/tunnel"
)

func rules(t *testing.T, texts ...string) (all []auth.ForwardRule) {
	t.Helper()
	for _, text := range texts {
		r, err := auth.ParseForwardRule(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// startForwarding starts a server that forwards within these rules.
func startForwarding(t *testing.T, texts ...string) *fixture {
	t.Helper()
	return startForwardingWith(t, func(*server.Options) {}, texts...)
}

// startForwardingWith is startForwarding with further options.
func startForwardingWith(t *testing.T, change func(*server.Options), texts ...string) *fixture {
	t.Helper()
	return start(t, func(o *server.Options) {
		o.Forward = rules(t, texts...)
		o.Dialects = []dialect.Dialect{native.New(native.Options{Forwards: 100, Logger: o.Logger})}
		change(o)
	})
}

// echoAt answers each connection with its first line, and returns where.
func echoAt(t *testing.T, network, addr string) net.Addr {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	testtcp.ServeInTurnOn(t, ln, func(c net.Conn) {
		c.SetDeadline(time.Now().Add(patience))
		line, _ := bufio.NewReader(c).ReadString('\n')
		io.WriteString(c, line)
	})
	return ln.Addr()
}

// reach opens a stream and has it echo.
func reach(t *testing.T, open func(context.Context, tunnel.Target) (net.Conn, error), target tunnel.Target) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := open(ctx, target)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "hello\n")
	got, err := io.ReadAll(c)
	if string(got) != "hello\n" || err != nil {
		t.Errorf("%s: got %q, %v, want an echo", target, got, err)
	}
	return nil
}

func isReset(err error) bool {
	_, ok := errors.AsType[*tunnel.ResetError](err)
	return ok
}

func refusedWith(t *testing.T, target tunnel.Target, err error, want tunnel.RefuseCode) {
	t.Helper()
	re, ok := errors.AsType[*tunnel.RefusedError](err)
	if !ok || re.Code != want {
		t.Errorf("%+v: got %v, want it refused with %s", target, err, want)
	}
	if ok && strings.Contains(re.Reason, "127.0.0.1") && !strings.Contains(target.Host, "127.0.0.1") {
		t.Errorf("%+v: the reason tells an address: %s", target, re.Reason)
	}
}

func portOf(a net.Addr) uint16 { return uint16(a.(*net.TCPAddr).Port) }

// TestHostileTargets is for the kind of hole that chisel had up to 1.11.4: what
// was allowed was looked at when an agent connected, and not for each stream.
func TestHostileTargets(t *testing.T) {
	t.Parallel()
	at := echoAt(t, "tcp", "127.0.0.1:0")
	port := portOf(at)
	f := startForwarding(t, "127.0.0.1:*", "localhost:*", "*:*", "unix:/run/everybody.sock", "@*/*")
	allowed := tunnel.Target{Network: tunnel.TCP, Host: "127.0.0.1", Port: port}
	narrow, err := f.dialSession(t, f.mint(t, auth.TokenClaims{Subject: "narrow", Scope: auth.Scope{Forward: rules(t, allowed.String())}}))
	if err != nil {
		t.Fatal(err)
	}
	wild, err := f.dialSession(t, f.mint(t, auth.TokenClaims{Subject: "wild", Scope: auth.Scope{Forward: rules(t, "*:*", "0.0.0.0/0:*", "[::/0]:*")}}))
	if err != nil {
		t.Fatal(err)
	}
	none, err := f.dialSession(t, f.mint(t, auth.TokenClaims{Subject: "none", Scope: auth.Scope{IDs: []string{"*"}}}))
	if err != nil {
		t.Fatal(err)
	}
	tcp := func(host string, port uint16) tunnel.Target {
		return tunnel.Target{Network: tunnel.TCP, Host: host, Port: port}
	}
	if err := reach(t, narrow.OpenTarget, allowed); err != nil {
		t.Fatalf("%s: %v", allowed, err)
	}
	for _, host := range []string{
		"127.0.0.2", "0.0.0.0", "", "localhost", "LOCALHOST", "localhost.", "::1", "[127.0.0.1]", "0:0:0:0:0:ffff:7f00:2",
		"127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "127.0.0.1%lo", "::ffff:127.0.0.1%lo", "fe80::1%eth0", "::", "::7f00:1", "64:ff9b::7f00:1",
		"127.0.0.1\x00", "127.0.0.1\x00.example.com", "127.0.0.1 ", "127.0.0.1\n", "127.0.0.1:80", "127.0.0.1/8", "*", "169.254.169.254",
		"::ffff:169.254.169.254", "fd00:ec2::254", "metadata.google.internal\x00", "224.0.0.1", "255.255.255.255", strings.Repeat("a", 300),
	} {
		for name, s := range map[string]*native.Session{"wild": wild, "none": none} {
			target := tcp(host, port)
			err := reach(t, s.OpenTarget, target)
			if err == nil {
				t.Errorf("%s reached %+v", name, target)
				continue
			}
			refusedWith(t, target, err, tunnel.RefuseForbidden)
		}
		if host == "127.0.0.1." || strings.Trim(strings.ToLower(host), ".") == "localhost" {
			continue // another spelling of the address that the rule names
		}
		if err := reach(t, narrow.OpenTarget, tcp(host, port)); err == nil {
			t.Errorf("narrow reached %q", host)
		}
	}
	for _, target := range []tunnel.Target{
		tcp("127.0.0.1", 0), tcp("127.0.0.1", port-1),
		{Network: tunnel.UDP, Host: "127.0.0.2", Port: port},
		{Network: tunnel.Unix, Host: "/run/everybody.sock"},
		{Network: tunnel.Unix, Host: "/run/../run/everybody.sock"},
		{Network: tunnel.Agent, Host: "office", Service: "ssh"},
		{Network: "ip", Host: "127.0.0.1", Port: port},
		{Network: "TCP", Host: "127.0.0.1", Port: port},
		{},
	} {
		refusedWith(t, target, reach(t, narrow.OpenTarget, target), tunnel.RefuseForbidden)
	}
	if err := reach(t, narrow.OpenTarget, tcp("::ffff:127.0.0.1", port)); err != nil {
		t.Errorf("the allowed address in its IPv6 form: %v", err)
	}
}

func TestForwardTakesRules(t *testing.T) {
	t.Parallel()
	at := echoAt(t, "tcp", "127.0.0.1:0")
	target := tunnel.Target{Network: tunnel.TCP, Host: "127.0.0.1", Port: portOf(at)}
	all := auth.TokenClaims{Subject: "me", Scope: auth.Scope{Forward: rules(t, "127.0.0.0/8:*")}}
	t.Run("server without rules", func(t *testing.T) {
		t.Parallel()
		f := start(t, nil)
		for _, token := range []string{f.secret.Reveal(), f.mint(t, all)} {
			s, err := f.dialSession(t, token)
			if err != nil {
				t.Fatal(err)
			}
			refusedWith(t, target, reach(t, s.OpenTarget, target), tunnel.RefuseForbidden)
		}
	})
	t.Run("server with others", func(t *testing.T) {
		t.Parallel()
		f := startForwarding(t, "10.0.0.0/8:*")
		for _, token := range []string{f.secret.Reveal(), f.mint(t, all)} {
			s, err := f.dialSession(t, token)
			if err != nil {
				t.Fatal(err)
			}
			refusedWith(t, target, reach(t, s.OpenTarget, target), tunnel.RefuseForbidden)
		}
	})
	t.Run("secret goes as far as the server", func(t *testing.T) {
		t.Parallel()
		f := startForwarding(t, "127.0.0.1:*")
		s, err := f.dialSession(t, f.secret.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		if err := reach(t, s.OpenTarget, target); err != nil {
			t.Error(err)
		}
	})
	t.Run("socket", func(t *testing.T) {
		t.Parallel()
		path := t.TempDir() + "/s"
		echoAt(t, "unix", path)
		f := startForwarding(t, "unix:"+path)
		s, err := f.dialSession(t, f.secret.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		if err := reach(t, s.OpenTarget, tunnel.Target{Network: tunnel.Unix, Host: path}); err != nil {
			t.Error(err)
		}
		os.Remove(path)
		gone := tunnel.Target{Network: tunnel.Unix, Host: path}
		refusedWith(t, gone, reach(t, s.OpenTarget, gone), tunnel.RefuseUnknownHost)
	})
	t.Run("scope that narrows", func(t *testing.T) {
		t.Parallel()
		f := startForwarding(t, "127.0.0.1:*")
		s, err := f.dialSession(t, f.mint(t, all))
		if err != nil {
			t.Fatal(err)
		}
		if err := reach(t, s.OpenTarget, target); err != nil {
			t.Fatal(err)
		}
		var open []net.Conn
		for range 2 {
			c, err := s.OpenTarget(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			open = append(open, c)
		}
		if err := s.Refresh(t.Context(), f.mint(t, all)); err != nil {
			t.Fatal(err)
		}
		io.WriteString(open[0], "still\n") // nothing has changed
		if got, err := io.ReadAll(open[0]); string(got) != "still\n" || err != nil {
			t.Errorf("got %q, %v, want an echo", got, err)
		}
		less := auth.TokenClaims{Subject: "me", Scope: auth.Scope{Forward: rules(t, "10.0.0.0/8:*")}}
		if err := s.Refresh(t.Context(), f.mint(t, less)); err != nil {
			t.Fatal(err)
		}
		refusedWith(t, target, reach(t, s.OpenTarget, target), tunnel.RefuseForbidden)
		// What is open ends too: its target is allowed no more.
		if got, err := io.ReadAll(open[1]); !isReset(err) {
			t.Errorf("got %q, %v, want the stream reset", got, err)
		}
	})
}

// A forward ends at what another agent offers, under both credentials.
func TestForwardToService(t *testing.T) {
	t.Parallel()
	at := echoAt(t, "tcp", "127.0.0.1:0")
	f := startForwarding(t, "@*/*")
	service := newTunnel(t, agent.Tunnel{ID: "office", Kind: dialect.Service, Name: "ssh"}, at.String())
	a := f.agent(t, nil, service)
	bound := a.up(t)
	if got := bound[0].URLs; len(got) != 1 || got[0] != "@office/ssh" {
		t.Errorf("got the addresses %q, want @office/ssh", got)
	}
	target := tunnel.Target{Network: tunnel.Agent, Host: "office", Service: "ssh"}
	datagrams := tunnel.Target{Network: tunnel.AgentUDP, Host: "office", Service: "ssh"}
	for _, tt := range []struct {
		name, rule string
		target     tunnel.Target
		want       tunnel.RefuseCode // 0 for none
	}{
		{"allowed", "@office/ssh", target, 0},
		{"allowed by a pattern", "@off*/*", target, 0},
		{"another ID", "@home/*", target, tunnel.RefuseForbidden},
		{"another service", "@office/web", target, tunnel.RefuseForbidden},
		{"hosts alone", "*:*", target, tunnel.RefuseForbidden},
		{"datagrams by another rule", "@office/web", datagrams, tunnel.RefuseForbidden},
		{"datagrams to what takes connections", "@office/ssh", datagrams, tunnel.RefuseUnknownService},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := f.dialSession(t, f.mint(t, auth.TokenClaims{Subject: "me", Scope: auth.Scope{Forward: rules(t, tt.rule)}}))
			if err != nil {
				t.Fatal(err)
			}
			err = reach(t, s.OpenTarget, tt.target)
			if tt.want == 0 && err != nil {
				t.Error(err)
			} else if tt.want != 0 {
				refusedWith(t, tt.target, err, tt.want)
			}
		})
	}
	t.Run("visitors do not find it", func(t *testing.T) {
		// The ID has no hostname of its own: nothing is bound for HTTP.
		for _, s := range f.Tunnels() {
			for _, u := range s.URLs {
				if strings.HasPrefix(u, "http") {
					t.Errorf("the service has the address %s", u)
				}
			}
		}
	})
	t.Run("it takes a credential to offer one", func(t *testing.T) {
		s, err := f.dialSession(t, f.mint(t, auth.TokenClaims{Subject: "other", Scope: auth.Scope{IDs: []string{"home"}}}))
		if err != nil {
			t.Fatal(err)
		}
		for id, want := range map[tunnel.ID]dialect.BindCode{"shed": dialect.BindForbidden, "office": dialect.BindForbidden} {
			_, err := s.Bind(t.Context(), dialect.Binding{Key: string(id), Kind: dialect.Service, ID: id, Name: "ssh"})
			be, ok := errors.AsType[*dialect.BindError](err)
			if !ok || be.Code != want {
				t.Errorf("%s: got %v, want %s", id, err, want)
			}
		}
	})
}
