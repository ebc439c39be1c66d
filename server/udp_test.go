package server_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/ingress"
	"adit/internal/testdatagrams"
	"adit/internal/testport"
	"adit/route"
	"adit/server"
	"adit/session"
	"adit/tunnel"
)

// withUDP lets the server give out one port of TCP and UDP, on all addresses.
func withUDP(port uint16) func(*server.Options) {
	return func(o *server.Options) {
		o.Listen = ":0"
		o.UDPPorts = []ingress.PortRange{{First: port, Last: port}}
		o.TCPPorts = o.UDPPorts
	}
}

// dialLoopback starts a session of its own at a server that listens on all
// addresses.
func (f *fixture) dialLoopback(t *testing.T, token string, so session.Options) *native.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d := &native.Dialer{Server: fmt.Sprintf("ws://127.0.0.1:%d", f.Addr().Port()), Token: func() (string, error) { return token, nil }}
	s, err := native.Dial(ctx, d, native.SessionOptions{Session: so})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// echoDatagrams answers each datagram of each stream with the same behind a
// greeting, and reports the streams.
func echoDatagrams(t *testing.T, s *native.Session, greeting string) <-chan tunnel.StreamInfo {
	t.Helper()
	streams := make(chan tunnel.StreamInfo, 10000)
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			in := c.(tunnel.Incoming)
			if in.Accept() != nil {
				continue
			}
			streams <- in.Info()
			go func() {
				defer c.Close()
				for {
					b, err := testdatagrams.Read(c)
					if err != nil {
						return
					}
					if testdatagrams.Write(c, append([]byte(greeting), b...)) != nil {
						return
					}
				}
			}()
		}
	}()
	return streams
}

// bindUDP binds a public UDP port.
func bindUDP(t *testing.T, s *native.Session, bd dialect.Binding) dialect.Bound {
	t.Helper()
	bd.Key, bd.Kind = "k", dialect.UDP
	if bd.ID == "" {
		bd.ID = "echo"
	}
	bound, err := s.Bind(t.Context(), bd)
	if err != nil {
		t.Fatal(err)
	}
	return bound
}

// udpVisitor returns a socket from which everything goes to host and port, and
// that takes what comes from there alone.
func udpVisitor(t *testing.T, host string, port uint16) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// ask sends a datagram and returns the next that comes back.
func ask(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatalf("no answer to %.20q: %v", text, err)
	}
	return string(buf[:n])
}

func TestVisitorsReachUDPPort(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	f := start(t, withUDP(port))
	s := f.dialLoopback(t, f.secret.Reveal(), session.Options{})
	streams := echoDatagrams(t, s, "hello ")
	bound := bindUDP(t, s, dialect.Binding{Service: "dns"})
	if want := fmt.Sprintf("udp://example.com:%d", port); bound.Port != port || bound.Addr.Port() != port || len(bound.URLs) != 1 || bound.URLs[0] != want {
		t.Errorf("got %+v, want the port %d, and %s", bound, port, want)
	}
	hosts := []string{"127.0.0.1", "127.0.0.2", "::1"}
	for _, host := range hosts { // the visitor takes what comes from there alone
		c, err := net.Dial("udp", net.JoinHostPort(host, fmt.Sprint(port)))
		if err != nil && strings.Contains(host, ":") {
			t.Logf("no IPv6: %v", err)
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		for _, text := range []string{"one", "", strings.Repeat("x", 60_000), "two"} {
			if got, want := ask(t, c, text), "hello "+text; got != want {
				t.Errorf("at %s: got %.30q for %.20q", host, got, text)
			}
		}
		info := <-streams
		want := tunnel.StreamInfo{
			Service: "dns", Protocol: "udp",
			Visitor: c.LocalAddr().(*net.UDPAddr).AddrPort(),
			Local:   netip.AddrPortFrom(netip.MustParseAddr(host), port),
		}
		if info != want {
			t.Errorf("the stream is %+v, want %+v", info, want)
		}
	}
	if len(streams) != 0 {
		t.Errorf("%d streams too many", len(streams))
	}
}

// A port is bound on the address that was asked for, and nowhere else.
func TestBindAddress(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	f := start(t, withUDP(port))
	s := f.dialLoopback(t, f.secret.Reveal(), session.Options{})
	echoDatagrams(t, s, "")
	two := netip.MustParseAddr("127.0.0.2")
	for _, kind := range []dialect.Kind{dialect.UDP, dialect.TCP} {
		bound, err := s.Bind(t.Context(), dialect.Binding{Key: string(kind), Kind: kind, ID: "a", Port: port, Addr: two})
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%s://127.0.0.2:%d", kind, port); bound.Addr != netip.AddrPortFrom(two, port) || bound.URLs[0] != want {
			t.Errorf("got %+v, want %s", bound, want)
		}
		for what, bd := range map[string]dialect.Binding{
			"at another address": {Key: "k", Kind: kind, ID: "a", Port: port, Addr: netip.MustParseAddr("127.0.0.1")},
			"at all addresses":   {Key: "k", Kind: kind, ID: "a", Port: port},
			"for another name":   {Key: "k", Kind: kind, ID: "b", Port: port, Addr: two},
		} {
			var be *dialect.BindError
			if _, err := s.Bind(t.Context(), bd); !asBindError(err, &be) || be.Code != dialect.BindPortInUse {
				t.Errorf("%s %s: got %v, want port-in-use", kind, what, err)
			}
		}
	}
	if got := ask(t, udpVisitor(t, "127.0.0.2", port), "x"); got != "x" {
		t.Errorf("got %q, want x", got)
	}
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.2:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for _, host := range []string{"127.0.0.1", "::1"} {
		if c, err := net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(port))); err == nil {
			t.Errorf("somebody listens at %s", host)
			c.Close()
		}
		pc, err := net.ListenPacket("udp", net.JoinHostPort(host, fmt.Sprint(port)))
		if err != nil && !strings.Contains(host, ":") {
			t.Errorf("the UDP port is taken at %s too: %v", host, err)
		} else if err == nil {
			pc.Close()
		}
	}
	for _, kind := range []dialect.Kind{dialect.UDP, dialect.TCP} {
		if err := s.Unbind(t.Context(), string(kind)); err != nil {
			t.Error(err)
		}
		bound, err := s.Bind(t.Context(), dialect.Binding{Key: "k", Kind: kind, ID: "a", Port: port, Addr: netip.IPv4Unspecified()})
		if err != nil || bound.Addr != netip.AddrPortFrom(netip.IPv4Unspecified(), port) || bound.URLs[0] != fmt.Sprintf("%s://example.com:%d", kind, port) {
			t.Errorf("all of IPv4: got %+v, %v", bound, err)
		}
		s.Unbind(t.Context(), "k")
	}
}

func asBindError(err error, to **dialect.BindError) bool {
	be, ok := err.(*dialect.BindError)
	*to = be
	return ok
}

// TCP and UDP ports of one number have nothing to do with one another, and nor
// have their scopes.
func TestUDPPortsOfScope(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	f := start(t, withUDP(port))
	one := []auth.PortRange{{First: port, Last: port}}
	udp := f.dialLoopback(t, f.mint(t, auth.TokenClaims{Subject: "u", Scope: auth.Scope{IDs: []string{"a"}, UDPPorts: one}}), session.Options{})
	tcp := f.dialLoopback(t, f.mint(t, auth.TokenClaims{Subject: "t", Scope: auth.Scope{IDs: []string{"b"}, Ports: one}}), session.Options{})
	for _, tt := range []struct {
		s    *native.Session
		kind dialect.Kind
		id   tunnel.ID
		port uint16
		want dialect.BindCode
	}{
		{udp, dialect.TCP, "a", port, dialect.BindForbidden},
		{udp, dialect.TCP, "a", 0, dialect.BindNoPort},
		{tcp, dialect.UDP, "b", port, dialect.BindForbidden},
		{tcp, dialect.UDP, "b", 0, dialect.BindNoPort},
		{udp, dialect.UDP, "a", 0, ""},
		{tcp, dialect.TCP, "b", 0, ""},
	} {
		bound, err := tt.s.Bind(t.Context(), dialect.Binding{Key: "k", Kind: tt.kind, ID: tt.id, Port: tt.port})
		var be *dialect.BindError
		switch {
		case tt.want == "" && (err != nil || bound.Port != port):
			t.Errorf("%s for %q: got %+v, %v, want port %d", tt.kind, tt.id, bound, err, port)
		case tt.want != "" && (!asBindError(err, &be) || be.Code != tt.want):
			t.Errorf("%s port %d for %q: got %v, want %s", tt.kind, tt.port, tt.id, err, tt.want)
		}
	}
	// The credential that the session goes on with has to allow it too.
	if err := udp.Refresh(t.Context(), f.mint(t, auth.TokenClaims{Subject: "u", Scope: auth.Scope{IDs: []string{"a"}, Ports: one}})); err == nil {
		t.Error("a session keeps a UDP port with a credential that does not allow it")
	}
}

// While an agent is away its visitors' datagrams wait, and those that come
// afterwards go to the session that took over.
func TestUDPWaitsForAgent(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	f := start(t, withUDP(port))
	w := newWay()
	d := &native.Dialer{Server: fmt.Sprintf("ws://127.0.0.1:%d", f.Addr().Port()), DialContext: w.dial, Token: func() (string, error) { return f.secret.Reveal(), nil }, Instance: "one"}
	first, err := native.Dial(t.Context(), d, native.SessionOptions{Session: session.Options{ResumeWindow: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	echoDatagrams(t, first, "first ")
	bindUDP(t, first, dialect.Binding{})
	old := udpVisitor(t, "127.0.0.1", port)
	if got := ask(t, old, "x"); got != "first x" {
		t.Fatalf("got %q", got)
	}
	w.cut()
	f.logs(t, "carrier lost")
	early := udpVisitor(t, "127.0.0.1", port)
	for _, text := range []string{"a", "b", "c"} {
		if _, err := early.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	d2 := &native.Dialer{Server: d.Server, Token: d.Token, Instance: "one"}
	second, err := native.Dial(t.Context(), d2, native.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	echoDatagrams(t, second, "second ")
	bindUDP(t, second, dialect.Binding{})
	buf := make([]byte, 100)
	for _, text := range []string{"a", "b", "c"} {
		if n, err := early.Read(buf); err != nil || string(buf[:n]) != "second "+text {
			t.Fatalf("got %q, %v, want what was sent while the agent was away", buf[:n], err)
		}
	}
	if got := askUntil(t, old, "y"); got != "second y" {
		t.Errorf("got %q, want the answer of the session that took over", got)
	}
}

// askUntil is ask for a visitor of a session that has just ended: what it sends
// before that is noticed is lost.
func askUntil(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	buf := make([]byte, 1<<16)
	for began := time.Now(); time.Since(began) < patience; {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := c.Read(buf); err == nil {
			return string(buf[:n])
		}
	}
	t.Fatalf("no answer to %.20q", text)
	return ""
}

// A rule leads visitors of a UDP port to what its members have bound.
func TestUDPRoute(t *testing.T) {
	t.Parallel()
	port, own := testport.One(t), testport.One(t)
	f := start(t, withUDP(own))
	key := route.PortKey(port, true)
	rule := route.Rule{Name: key, Members: []route.Member{{ID: "one"}, {ID: "two", Priority: 2}}}
	if _, err := f.SetRoutes([]route.Rule{rule}, "", false); err != nil {
		t.Fatal(err)
	}
	s := f.dialLoopback(t, f.secret.Reveal(), session.Options{})
	echoDatagrams(t, s, "two ")
	bindUDP(t, s, dialect.Binding{ID: "two"})
	if got := ask(t, udpVisitor(t, "127.0.0.1", port), "x"); got != "two x" {
		t.Errorf("got %q, want it from the member", got)
	}
	if _, err := f.SetRoutes(nil, "", false); err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	pc.Close()
}

// Whoever has blocked a name has also blocked its UDP port, and a stopped server
// has let go of it.
func TestUDPEnds(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	var visits atomic.Int32
	f := start(t, func(o *server.Options) {
		withUDP(port)(o)
		o.Grace = patience
		o.OnRequest = func(v ingress.Finished) {
			if v.Proto == ingress.ProtoUDP && v.Host == route.PortKey(port, true) && v.ID == "echo" && v.Received == 1 && v.Sent == 1 {
				visits.Add(1)
			}
		}
	})
	s := f.dialLoopback(t, f.secret.Reveal(), session.Options{})
	echoDatagrams(t, s, "")
	bindUDP(t, s, dialect.Binding{})
	if got := ask(t, udpVisitor(t, "127.0.0.1", port), "x"); got != "x" {
		t.Fatalf("got %q", got)
	}
	if st := f.Stats().UDP; st.Ports != 1 || st.Visitors != 1 || st.DatagramsReceived != 1 {
		t.Errorf("got %+v, want a visitor, and its datagram", st)
	}
	begin := time.Now()
	if err := f.stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d > patience/2 {
		t.Errorf("the server took %v to stop with a visitor that was quiet", d)
	}
	if n := visits.Load(); n != 1 {
		t.Errorf("%d visits were told of, want 1", n)
	}
	if n := f.Stats().UDP.DatagramsSent; n != 1 {
		t.Errorf("%d datagrams were sent, want 1", n)
	}
	pc, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	pc.Close()
}
