package forest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"adit/internal/testport"
)

// An event is one of a recorded conversation with the original.
type event struct {
	From, Text, Frame, Hex, Body string
	Flags                        []string
	Stream                       uint32
	Conn                         int
	End                          bool
}

func recorded(t *testing.T, name string) (events []event) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name + ".frames.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &events); err != nil {
		t.Fatal(err)
	}
	return events
}

// served returns the number of the conn of a recording that became a session.
func served(events []event) int {
	for _, e := range events {
		if strings.HasPrefix(e.Text, "HTTP/1.1 200") {
			return e.Conn
		}
	}
	return 0
}

// A side is what one side has said, stream by stream.
type side struct {
	body  map[uint32]string
	flags map[uint32]string
}

func newSide() *side { return &side{map[uint32]string{}, map[uint32]string{}} }

var anyPort = regexp.MustCompile(`\d+ \d+\r\n|"localPort":\d+`)

func (s *side) add(stream uint32, flags []string, body string) {
	s.body[stream] = anyPort.ReplaceAllString(s.body[stream]+body, "PORTS")
	for _, f := range flags {
		s.flags[stream] += f + " "
	}
}

func (s *side) has(o *side) bool {
	for st, b := range o.body {
		if !strings.HasPrefix(s.body[st], b) || !strings.HasPrefix(s.flags[st], o.flags[st]) {
			return false
		}
	}
	return true
}

// A peer plays one side of a recorded conversation.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	want *side // of the other side, so far
	got  *side
}

func (p *peer) send(e event) {
	p.t.Helper()
	b := []byte(e.Text)
	if e.Frame != "" {
		var err error
		if b, err = hex.DecodeString(e.Hex); err != nil {
			p.t.Fatal(err)
		}
	}
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// expect reads until the other side has said e.
func (p *peer) expect(e event) {
	p.t.Helper()
	if e.Frame == "ping" {
		return
	}
	p.want.add(e.Stream, e.Flags, e.Body)
	for !p.got.has(p.want) {
		var h [headerSize]byte
		if _, err := io.ReadFull(p.r, h[:]); err != nil {
			p.t.Fatalf("%v: got %v %v, want %v %v", err, p.got.body, p.got.flags, p.want.body, p.want.flags)
		}
		var flags []string
		for i, name := range []string{"SYN", "ACK", "FIN", "RST"} {
			if binary.BigEndian.Uint16(h[2:])&(1<<i) != 0 {
				flags = append(flags, name)
			}
		}
		stream, body := binary.BigEndian.Uint32(h[4:]), ""
		if n := binary.BigEndian.Uint32(h[8:]); h[1] == typeData {
			b := make([]byte, n)
			if _, err := io.ReadFull(p.r, b); err != nil {
				p.t.Fatal(err)
			}
			body = string(b)
		}
		if h[1] <= typeWindow {
			p.got.add(stream, flags, body)
		}
	}
}

// startServer runs a server without TLS until the test ends.
func startServer(t *testing.T, c ServerConfig) (s *Server, addr []string) {
	t.Helper()
	ready := make(chan string, 2)
	s, err := NewServer(c, ServerOptions{Listen: func(int) (net.Listener, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			ready <- ln.Addr().String()
		}
		return ln, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	runServer(t, s)
	addr = append(addr, <-ready)
	if c.twoPort() {
		addr = append(addr, <-ready)
	}
	return s, addr
}

// runServer runs s until the test ends.
func runServer(t *testing.T, s *Server) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
}

func put(t *testing.T, addr, set string) (int, string) {
	t.Helper()
	req, _ := http.NewRequest(http.MethodPut, "http://"+addr+"/tunnels", strings.NewReader(set))
	req.Header.Set("Content-Type", "application/json")
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestGoldenServer plays the original agent of both generations to the server.
func TestGoldenServer(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"single-port-transcript-no-tls", "single-port-transcript", "two-port-transcript", "single-port-proxy-tcp6", "first-readme-transcript-no-tls"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events := recorded(t, name)
			config := ServerConfig{}
			proxy, fronts := "HaProxyProxyProtocol", []string{"127.0.0.1"}
			switch name {
			case "two-port-transcript":
				config.TunnelControlPort, config.ManagementPort = 1, 2
			case "first-readme-transcript-no-tls":
				config.TunnelControlPort, config.ManagementPort = 1, 2
				proxy = "ProxyProtocol"
			case "single-port-proxy-tcp6":
				fronts = []string{"::1", "::", "0.0.0.0"} // a visitor of each
			}
			s, addr := startServer(t, config)
			_, changed := s.agents.pick(nil)
			conn, err := net.Dial("tcp", addr[0])
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			p := &peer{t: t, conn: conn, r: bufio.NewReader(conn), want: newSide(), got: newSide()}
			var ports []int
			for range fronts {
				ports = append(ports, int(testport.One(t)))
			}
			var visitor net.Conn
			visits := 0
			for i, e := range events {
				switch {
				case e.Conn != served(events): // which were refused
					continue
				case e.End:
					return
				case e.From == "client":
					p.send(e)
					continue
				case e.Text != "":
					got := make([]byte, len(e.Text))
					if _, err := io.ReadFull(p.r, got); err != nil || string(got) != e.Text {
						t.Fatalf("got %q, %v, want %q", got, err, e.Text)
					}
					continue
				case strings.HasPrefix(e.Body, "{"):
					if visitor == nil {
						<-changed
						var entries []string
						for i, address := range fronts {
							entries = append(entries, fmt.Sprintf(`{"ClientIdentifier":"TestClient1","ListenAddress":%q,"ListenPort":%d,"BackEndService":"fooService","HaProxyProxyProtocol":true}`, address, ports[i]))
						}
						set := "[" + strings.Join(entries, ",") + "]"
						if config.twoPort() {
							set = fmt.Sprintf(`[{"ClientIdentifier":"TestClient1","FrontEndListenPort":%d,"BackEndPort":43711,%q:true}]`, ports[0], proxy)
						}
						if status, text := put(t, addr[len(addr)-1], set); status != 200 {
							t.Fatalf("PUT: got %d %q, want 200", status, text)
						}
					}
					to := visits % len(fronts)
					visits++
					host := "127.0.0.1"
					if fronts[to] == "::1" {
						host = "::1"
					}
					if visitor, err = net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(ports[to]))); err != nil {
						t.Fatal(err)
					}
					defer visitor.Close()
					say := "hello\n"
					if strings.Contains(fmt.Sprint(events[i+1:i+7]), "bye") {
						say = "bye\n"
					}
					io.WriteString(visitor, say)
				case len(e.Flags) == 1 && e.Flags[0] == "FIN" && events[i-1].From == "client" && events[i-1].Frame == "data":
					visitor.Close() // after the answer, so nothing is held back
				}
				p.expect(e)
			}
		})
	}
}

// TestGoldenAgent plays the original server of both generations to the agent.
func TestGoldenAgent(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"single-port-transcript-no-tls", "single-port-transcript", "two-port-transcript", "single-port-dead-ends", "single-port-three-at-once", "single-port-proxy-tcp6", "first-readme-transcript-no-tls"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events := recorded(t, name)
			echo := listenLocal(t, func(c net.Conn) {
				defer c.Close()
				b := make([]byte, 1024)
				for {
					n, err := c.Read(b)
					if n > 0 {
						c.Write(b[:n])
					}
					if err != nil || strings.HasSuffix(string(b[:n]), "bye\n") {
						return
					}
				}
			})
			ln := listenOnly(t)
			config := AgentConfig{ClientIdentifier: "TestClient1", ServerAddr: ln.Addr().String(),
				ServiceToLocalAddrMap: map[string]string{"fooService": echo, "alpha": echo, "beta": echo, "gamma": echo, "down": fmt.Sprint("127.0.0.1:", testport.One(t))}}
			if strings.HasPrefix(name, "two") || strings.HasPrefix(name, "first") {
				config.ServerHost, config.ServiceToLocalAddrMap = "127.0.0.1", nil
			}
			runAgent(t, config)
			conn, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			p := &peer{t: t, conn: conn, r: bufio.NewReader(conn), want: newSide(), got: newSide()}
			_, port, _ := net.SplitHostPort(echo)
			for _, e := range events {
				switch {
				case e.Conn != served(events): // which were refused
				case e.End:
					return
				case e.From == "client" && e.Text != "":
					p.expectRequest(e.Text)
				case e.From == "client":
					p.expect(e)
				case strings.Contains(e.Body, "localPort"):
					body := fmt.Sprintf(`{"action":1,"transportProtocol":2,"localPort":%s}`+"\n", port)
					var h [headerSize]byte
					h[7], h[11] = 1, byte(len(body))
					p.send(event{Frame: "data", Hex: hex.EncodeToString(append(h[:], body...))})
				default:
					p.send(e)
				}
			}
		})
	}
}

// expectRequest wants the original's request, with our header at its end.
func (p *peer) expectRequest(want string) {
	p.t.Helper()
	var got strings.Builder
	for !strings.HasSuffix(got.String(), "\r\n\r\n") {
		line, err := p.r.ReadString('\n')
		if err != nil {
			p.t.Fatal(err)
		}
		if !strings.HasPrefix(line, headerFeatures) {
			got.WriteString(line)
		}
	}
	port := regexp.MustCompile(`:\d+\r\n`)
	if g, w := port.ReplaceAllString(got.String(), ":PORT\r\n"), port.ReplaceAllString(want, ":PORT\r\n"); g != w {
		p.t.Fatalf("got request %q, want %q", g, w)
	}
}

func runAgent(t *testing.T, c AgentConfig) *Agent {
	t.Helper()
	a, err := NewAgent(c, AgentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run of the agent: got %v, want nil", err)
		}
	})
	return a
}

func listenOnly(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func listenLocal(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	ln := listenOnly(t)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go handle(c)
		}
	}()
	return ln.Addr().String()
}

// An exchange is a recorded request and its answer.
type exchange struct{ Name, Request, Response string }

// exchanges reads a recording. replace are texts in it and what stands there
// instead, as for strings.NewReplacer.
func exchanges(t *testing.T, file string, replace ...string) (all []exchange) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file + ".json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(strings.NewReplacer(replace...).Replace(string(b))), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// play sends the request, wants the answer and closes conn.
func (x *exchange) play(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, x.Request)
	got, err := io.ReadAll(conn)
	conn.Close()
	if err != nil {
		t.Fatal(err)
	}
	if g, w := stable(string(got)), stable(x.Response); g != w {
		t.Errorf("%s: got %q, want %q", x.Name, g, w)
	}
}

// TestGoldenManagement asks what the original was asked, as far as it needs no
// certificates.
func TestGoldenManagement(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		file   string
		config ServerConfig
		skip   []string
	}{
		{"management-single-port", ServerConfig{}, []string{"connect-", "put-one", "put-same", "put-odd", "put-host", "put-no-address", "put-port", "put-client-gone", "clients-one", "clients-gone"}},
		{"management-two-port", ServerConfig{TunnelControlPort: 1, ManagementPort: 2}, []string{"connect-", "put-one", "put-same", "put-port", "put-client-gone", "clients-one", "clients-gone"}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			_, addr := startServer(t, tt.config)
			for _, x := range exchanges(t, tt.file) {
				if skipped(x.Name, tt.skip) {
					continue
				}
				conn, err := net.Dial("tcp", addr[len(addr)-1])
				if err != nil {
					t.Fatal(err)
				}
				x.play(t, conn)
			}
		})
	}
}

func skipped(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// stable is an answer without its date, and with its header in order.
func stable(s string) string {
	head, body, _ := strings.Cut(s, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	h := map[string]string{}
	for _, l := range lines[1:] {
		k, v, _ := strings.Cut(l, ": ")
		if k != "Date" {
			h[k] = v
		}
	}
	return fmt.Sprint(lines[0], h, body)
}
