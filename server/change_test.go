package server_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/ingress"
	"adit/internal/testport"
	"adit/server"
	"adit/tunnel"
)

// Rules of the server that change count at once, for what is open too.
func TestSetForward(t *testing.T) {
	t.Parallel()
	one := tunnel.Target{Network: tunnel.TCP, Host: "127.0.0.1", Port: portOf(echoAt(t, "tcp", "127.0.0.1:0"))}
	two := tunnel.Target{Network: tunnel.TCP, Host: "127.0.0.1", Port: portOf(echoAt(t, "tcp", "127.0.0.1:0"))}
	f := startForwarding(t, "127.0.0.1:*")
	for name, token := range map[string]string{
		"token":  f.mint(t, auth.TokenClaims{Subject: "me", Scope: auth.Scope{Forward: rules(t, "127.0.0.1:*")}}),
		"secret": f.secret.Reveal(),
	} {
		s, err := f.dialSession(t, token)
		if err != nil {
			t.Fatal(err)
		}
		var open []net.Conn
		for _, target := range []tunnel.Target{one, two} {
			c, err := s.OpenTarget(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			open = append(open, c)
		}
		if err := f.SetForward(rules(t, one.String())); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(open[1]); !isReset(err) {
			t.Errorf("%s: got %q, %v of a target that is not allowed any more, want a reset", name, got, err)
		}
		io.WriteString(open[0], "still\n")
		if got, err := io.ReadAll(open[0]); string(got) != "still\n" || err != nil {
			t.Errorf("%s: got %q, %v of a target that is allowed, want an echo", name, got, err)
		}
		refusedWith(t, two, reach(t, s.OpenTarget, two), tunnel.RefuseForbidden)
		if err := f.SetForward(nil); err != nil {
			t.Fatal(err)
		}
		refusedWith(t, one, reach(t, s.OpenTarget, one), tunnel.RefuseForbidden)
		if err := f.SetForward(rules(t, "127.0.0.1:*")); err != nil {
			t.Fatal(err)
		}
		if err := reach(t, s.OpenTarget, two); err != nil {
			t.Errorf("%s: with the old rules: %v", name, err)
		}
	}
}

// Agents of a server without forwards were told so.
func TestSetForwardAnew(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	if err := f.SetForward(rules(t, "127.0.0.1:*")); err == nil {
		t.Error("a server that was started without forwards has some")
	}
}

// Ports that are given out no more are closed, and those that are given out anew
// can be had.
func TestSetPorts(t *testing.T) {
	t.Parallel()
	ports := func(list ...uint16) (all []ingress.PortRange) {
		for _, p := range list {
			all = append(all, ingress.PortRange{First: p, Last: p})
		}
		return all
	}
	first, second := testport.One(t), testport.One(t)
	f := start(t, func(o *server.Options) { o.TCPPorts = ports(first) })
	up := echo(t, "hello")
	greets := func(port uint16) bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		got := make([]byte, 5)
		io.ReadFull(c, got)
		return string(got) == "hello"
	}
	a := f.agent(t, nil, tcpTunnel(t, "a", first, up))
	a.up(t)
	if !greets(first) {
		t.Fatal("the port does not work")
	}
	f.SetPorts(ports(first, second), nil)
	other := f.agent(t, nil, tcpTunnel(t, "b", second, up))
	other.up(t)
	if !greets(second) || !greets(first) {
		t.Error("the ports do not work after there are more")
	}
	f.SetPorts(ports(second), ports(first))
	st := a.phase(t, agent.Refused)
	if st.Err == nil || !strings.Contains(st.Err.Error(), fmt.Sprintf("port %d", first)) {
		t.Errorf("the agent was told %v, want the port in it", st.Err)
	}
	for deadline := time.Now().Add(patience); greets(first); {
		if time.Now().After(deadline) {
			t.Fatal("a port that is given out no more is open")
		}
		time.Sleep(time.Millisecond)
	}
	if !greets(second) {
		t.Error("the port that is given out still does not work any more")
	}
	s, err := f.dialSession(t, f.secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Bind(t.Context(), dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "c", Port: first})
	if be, ok := errors.AsType[*dialect.BindError](err); !ok || be.Code != dialect.BindForbidden {
		t.Errorf("got %v, want the port forbidden", err)
	}
	if _, err := s.Bind(t.Context(), dialect.Binding{Key: "k", Kind: dialect.UDP, ID: "c", Port: first}); err != nil {
		t.Errorf("a UDP port that is given out now: %v", err)
	}
}
