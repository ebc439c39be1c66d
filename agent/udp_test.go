package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/forward"
	"adit/internal/datagrams"
	"adit/internal/testdatagrams"
	"adit/tunnel"
)

// A scripted server answers what agents bind as a test says, and hands out their
// tunnels.
type scripted struct {
	bind func(b dialect.Binding) (dialect.Bound, error)

	tunnels chan tunnel.Tunnel
	unbound chan string // keys
}

// script returns options of an agent with these tunnels, of such a server.
func script(t *testing.T, bind func(b dialect.Binding) (dialect.Bound, error), tunnels ...agent.Tunnel) (*scripted, agent.Options) {
	t.Helper()
	s := &scripted{bind: bind, tunnels: make(chan tunnel.Tunnel, 10), unbound: make(chan string, 10)}
	d := native.New(native.Options{Forwards: 1})
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tun, err := d.Accept(w, r, func(context.Context, auth.Claim) (*auth.Identity, error) {
			return &auth.Identity{Subject: "somebody", Scope: auth.Everything()}, nil
		})
		if err != nil {
			return
		}
		tun.(dialect.Binder).ServeBinds(s)
		s.tunnels <- tun
		<-tun.Done()
		tun.Close()
	}))
	t.Cleanup(func() {
		ts.CloseClientConnections()
		ts.Close()
	})
	return s, agent.Options{
		Server:  "ws://" + ts.Listener.Addr().String(),
		Token:   func() (string, error) { return auth.NewSecret().Reveal(), nil },
		Tunnels: tunnels,
	}
}

func (s *scripted) Bind(_ context.Context, b dialect.Binding) (dialect.Bound, error) {
	return s.bind(b)
}

func (s *scripted) Unbind(_ context.Context, key string) error {
	s.unbound <- key
	return nil
}

func (s *scripted) Refresh(context.Context, auth.Claim) error { return nil }

func udpUpstream(t *testing.T, s string) *agent.Upstream {
	t.Helper()
	u, err := agent.ParseUDPUpstream(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestParseUDPUpstream(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, want, err string }{
		{"53", "udp://localhost:53", ""},
		{"dns.internal:53", "udp://dns.internal:53", ""},
		{"[::1]:53", "udp://[::1]:53", ""},
		{"udp://10.0.0.2:53", "udp://10.0.0.2:53", ""},
		{"udp://10.0.0.2", "", "1 to 65535"},
		{"tcp://10.0.0.2:53", "", "udp is allowed"},
		{"http://10.0.0.2", "", "udp is allowed"},
		{"unix:/run/x.sock", "", "takes no datagrams"},
		{"0", "", "1 to 65535"},
		{"dns", "", "1 to 65535"},
		{"", "", "1 to 65535"},
	} {
		u, err := agent.ParseUDPUpstream(tt.in)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: got %v, %v, want an error with %q", tt.in, u, err, tt.err)
			}
			continue
		}
		if err != nil || u.String() != tt.want || !u.UDP() {
			t.Errorf("%q: got %v, %v, want %s", tt.in, u, err, tt.want)
			continue
		}
		if again, err := agent.ParseUpstream(u.String()); err != nil || again.String() != tt.want || !again.UDP() {
			t.Errorf("%q: got %v, %v, want what it was before", u, again, err)
		}
	}
	up := udpUpstream(t, "53")
	if err := up.Check(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Check: got %v, want that it cannot be known", err)
	}
	if _, err := up.WithProxyHeader(2); err == nil {
		t.Error("the PROXY protocol goes with datagrams")
	}
}

// Datagrams come and go whole, and the agent goes on though nobody takes them.
func TestUDPStreams(t *testing.T) {
	t.Parallel()
	far, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(far.LocalAddr().String())
	var seen sync.Map
	s, opts := script(t, func(b dialect.Binding) (dialect.Bound, error) {
		seen.Store(b.Kind, b)
		return dialect.Bound{Port: 51820, Addr: netip.MustParseAddrPort("0.0.0.0:51820"), URLs: []string{"udp://example.com:51820"}}, nil
	}, agent.Tunnel{ID: "wg", Kind: dialect.UDP, Port: 51820, Upstream: udpUpstream(t, port)})
	streams := make(chan agent.Stream, 10)
	opts.OnStream = func(st agent.Stream) { streams <- st }
	run(t, opts).until(agent.Connected)
	if b, ok := seen.Load(dialect.UDP); !ok || b.(dialect.Binding).Port != 51820 {
		t.Errorf("the server was asked for %+v, want a UDP port", b)
	}
	tun := <-s.tunnels
	open := func() net.Conn {
		t.Helper()
		c, err := tun.OpenStream(t.Context(), tunnel.StreamInfo{Protocol: "udp", Visitor: netip.MustParseAddrPort("192.0.2.1:1")})
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		return c
	}
	_, err = tun.OpenStream(t.Context(), tunnel.StreamInfo{Protocol: "tcp"})
	if re, ok := errors.AsType[*tunnel.RefusedError](err); !ok || re.Code != tunnel.RefuseUnknownService {
		t.Errorf("a connection to what takes datagrams: got %v, want it refused", err)
	}
	c := open()
	buf := make([]byte, datagrams.MaxLen)
	for _, n := range []int{0, 1, 1420, 60000} {
		if err := testdatagrams.Write(c, buf[:n]); err != nil {
			t.Fatal(err)
		}
		far.SetDeadline(time.Now().Add(patience))
		got, from, err := far.ReadFrom(buf)
		if err != nil || got != n {
			t.Fatalf("the upstream got %d bytes, %v; want %d", got, err, n)
		}
		far.WriteTo(buf[:n], from)
		if b, err := testdatagrams.Read(c); err != nil || len(b) != n {
			t.Fatalf("the visitor got %d bytes, %v; want %d", len(b), err, n)
		}
	}
	c.Close()
	if st := <-streams; st.Reached || st.Done || st.Kind != dialect.UDP {
		t.Errorf("told %+v, want a stream that nobody has answered yet", st)
	}
	if st := <-streams; !st.Done || st.Refused || st.Err != nil || st.Received != 61421 || st.Sent != 61421 {
		t.Errorf("told %+v, want the end of the stream after 61421 bytes both ways", st)
	}

	far.Close() // nobody takes datagrams any more
	c = open()
	defer c.Close()
	for range 3 {
		if err := testdatagrams.Write(c, buf[:1]); err != nil {
			t.Fatal(err)
		}
	}
	if far, err = net.ListenPacket("udp", "127.0.0.1:"+port); err != nil {
		t.Skip("the port was taken meanwhile")
	}
	defer far.Close()
	if err := testdatagrams.Write(c, []byte("here")); err != nil {
		t.Fatal(err)
	}
	far.SetDeadline(time.Now().Add(patience))
	for {
		n, _, err := far.ReadFrom(buf)
		if err != nil {
			t.Fatalf("what was sent once somebody was there did not come: %v", err)
		}
		if string(buf[:n]) == "here" {
			break
		}
	}
}

// An agent that asks for an address takes no other.
func TestBoundElsewhere(t *testing.T) {
	t.Parallel()
	up := upstream(t, "127.0.0.1:1")
	for _, tt := range []struct{ asked, got, want string }{
		{"127.0.0.1", "127.0.0.1:2222", ""},
		{"::1", "[::1]:2222", ""},
		{"127.0.0.1", "0.0.0.0:2222", "address 127.0.0.1: this server has bound the port on 0.0.0.0 instead"},
		{"127.0.0.1", "[::]:2222", "address 127.0.0.1: this server has bound the port on :: instead"},
		{"10.0.0.1", "127.0.0.1:2222", "address 10.0.0.1"},
	} {
		t.Run(tt.asked+" "+tt.got, func(t *testing.T) {
			t.Parallel()
			asked := make(chan netip.Addr, 1)
			s, opts := script(t, func(b dialect.Binding) (dialect.Bound, error) {
				asked <- b.Addr
				return dialect.Bound{Port: 2222, Addr: netip.MustParseAddrPort(tt.got)}, nil
			}, agent.Tunnel{ID: "ssh", Kind: dialect.TCP, Port: 2222, Addr: netip.MustParseAddr(tt.asked), Upstream: up})
			r := run(t, opts)
			if tt.want == "" {
				r.until(agent.Connected)
				return
			}
			err := r.end()
			if be, ok := errors.AsType[*dialect.BindError](err); !ok || be.Code != dialect.BindInvalid || !strings.Contains(be.Reason, tt.want) {
				t.Errorf("got %v, want it to give up with %q", err, tt.want)
			}
			if got := <-asked; got != netip.MustParseAddr(tt.asked) {
				t.Errorf("the server was asked for %v, want %s", got, tt.asked)
			}
			select {
			case <-s.unbound:
			default:
				t.Error("the port was not given back")
			}
		})
	}
}

// Streams to socks say where they go.
func TestSocksUpstream(t *testing.T) {
	t.Parallel()
	target := echoUpstream(t)
	rule, err := forward.ParseExitRule(target)
	if err != nil {
		t.Fatal(err)
	}
	up := agent.SocksUpstream(forward.NewExit([]auth.ForwardRule{rule}))
	s, opts := script(t, func(dialect.Binding) (dialect.Bound, error) { return dialect.Bound{}, nil },
		agent.Tunnel{ID: "office", Kind: dialect.Service, Name: "net", Upstream: up})
	streams := make(chan agent.Stream, 10)
	opts.OnStream = func(st agent.Stream) { streams <- st }
	run(t, opts).until(agent.Connected)
	tun := <-s.tunnels
	_, err = tun.OpenStream(t.Context(), tunnel.StreamInfo{Protocol: "udp"})
	if re, ok := errors.AsType[*tunnel.RefusedError](err); !ok || re.Code != tunnel.RefuseUnknownService {
		t.Errorf("datagrams to what takes connections: got %v, want them refused", err)
	}
	c, err := tun.OpenStream(t.Context(), tunnel.StreamInfo{Protocol: "tcp"})
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\n\r\nhello", target)
	c.(tunnel.HalfCloser).CloseWrite()
	got, err := io.ReadAll(c)
	c.Close()
	if want := "HTTP/1.1 200 Connection established\r\n\r\nhello"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	<-streams
	if st := <-streams; !st.Done || st.Err != nil || st.Received != 5 || st.Sent != 5 {
		t.Errorf("told %+v, want its end after 5 bytes both ways", st)
	}
}

func TestCheckTunnels(t *testing.T) {
	t.Parallel()
	socks, tcp, udp := agent.SocksUpstream(forward.NewExit(nil)), upstream(t, "22"), udpUpstream(t, "53")
	loopback := netip.MustParseAddr("127.0.0.1")
	for _, tt := range []struct {
		name   string
		tunnel agent.Tunnel
		ok     bool
	}{
		{"udp", agent.Tunnel{Kind: dialect.UDP, Upstream: udp}, true},
		{"udp on an address", agent.Tunnel{Kind: dialect.UDP, Addr: loopback, Upstream: udp}, true},
		{"udp as a service", agent.Tunnel{Kind: dialect.Service, Name: "dns", Upstream: udp}, true},
		{"udp to tcp", agent.Tunnel{Kind: dialect.UDP, Upstream: tcp}, false},
		{"tcp to udp", agent.Tunnel{Kind: dialect.TCP, Upstream: udp}, false},
		{"http on an address", agent.Tunnel{Kind: dialect.HTTP, Addr: loopback, Upstream: tcp}, false},
		{"socks for everybody", agent.Tunnel{Kind: dialect.TCP, Upstream: socks}, false},
		{"socks on another address", agent.Tunnel{Kind: dialect.TCP, Addr: netip.MustParseAddr("10.0.0.1"), Upstream: socks}, false},
		{"socks on loopback", agent.Tunnel{Kind: dialect.TCP, Addr: loopback, Upstream: socks}, true},
		{"socks with a policy", agent.Tunnel{Kind: dialect.TCP, Policy: []byte(`{"allow_ip":["192.0.2.0/24"]}`), Upstream: socks}, true},
		{"socks as a service", agent.Tunnel{Kind: dialect.Service, Name: "net", Upstream: socks}, true},
		{"socks over http", agent.Tunnel{Kind: dialect.HTTP, Upstream: socks}, false},
	} {
		tt.tunnel.ID = "x"
		_, err := agent.New(agent.Options{
			Server:  "ws://localhost:1",
			Token:   func() (string, error) { return auth.NewSecret().Reveal(), nil },
			Tunnels: []agent.Tunnel{tt.tunnel},
		})
		if (err == nil) != tt.ok {
			t.Errorf("%s: got %v, want it taken: %t", tt.name, err, tt.ok)
		}
	}
}
