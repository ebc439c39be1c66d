package forest

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/testport"
)

// A secureServer is a server with TLS, and the authority of its certificates.
type secureServer struct {
	*Server
	t    *testing.T
	ca   *authority
	addr []string
	stop func()
}

// startSecure runs a server whose authority has signed TestClient1@example.com
// and TestClient1@other.org too.
func startSecure(t *testing.T, c ServerConfig) *secureServer {
	t.Helper()
	ca := newAuthority(t, "ca")
	ca.make(&x509.Certificate{Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, "server")
	ca.client("TestClient1@example.com", "client")
	ca.client("TestClient1@other.org", "other")
	c.UseTls, c.CaCertificateFilesGlob = true, ca.file("ca.crt")
	c.ServerTlsCertificateFile, c.ServerTlsKeyFile = ca.file("server.crt"), ca.file("server.key")
	ready := make(chan string, 2)
	srv, err := NewServer(c, ServerOptions{Listen: func(int) (net.Listener, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			ready <- ln.Addr().String()
		}
		return ln, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := &secureServer{Server: srv, t: t, ca: ca}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	s.stop = func() { cancel(); <-done; done <- nil }
	t.Cleanup(s.stop)
	s.addr = append(s.addr, <-ready)
	if c.twoPort() {
		s.addr = append(s.addr, <-ready)
	}
	return s
}

func (s *secureServer) dial(addr, cert string) net.Conn {
	s.t.Helper()
	pair, err := tls.LoadX509KeyPair(s.ca.file(cert+".crt"), s.ca.file(cert+".key"))
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.own.Leaf)
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// agent is the configuration of an agent of the server's.
func (s *secureServer) agent() AgentConfig {
	return AgentConfig{ClientIdentifier: "TestClient1", UseTls: true, ServerAddr: s.addr[0], CaCertificateFilesGlob: s.ca.file("ca.crt"),
		ClientTlsCertificateFile: s.ca.file("client.crt"), ClientTlsKeyFile: s.ca.file("client.key")}
}

// TestGoldenManagementTLS asks all that the original was asked, with its
// certificates and while an agent comes and goes.
func TestGoldenManagementTLS(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		file   string
		config ServerConfig
		taken  string // port in the recording, as are the next
		free   []string
	}{
		{"management-single-port", ServerConfig{Domain: "example.com"}, "39901", []string{"35001"}},
		{"management-two-port", ServerConfig{TunnelControlPort: 1, ManagementPort: 2}, "36911", []string{"46199"}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			s := startSecure(t, tt.config)
			_, taken, _ := net.SplitHostPort(listenAll(t).Addr().String())
			replace := []string{tt.taken, taken}
			for _, p := range tt.free {
				replace = append(replace, p, fmt.Sprint(testport.One(t)))
			}
			var leave func()
			var silent sync.WaitGroup
			defer silent.Wait()
			for _, x := range exchanges(t, tt.file, replace...) {
				cert, addr := "client", s.addr[len(s.addr)-1]
				switch x.Name {
				case "clients-one":
					c := s.agent()
					if tt.config.twoPort() {
						c.ServerHost = "127.0.0.1"
					}
					leave = s.joined(c)
				case "clients-gone":
					leave()
				case "connect-wrong-domain":
					cert = "other"
				case "connect-no-identity":
					continue // threshold's clients come so; without a certificate that says a name they are refused
				}
				if strings.HasPrefix(x.Name, "connect-") {
					addr = s.addr[0]
				}
				conn := s.dial(addr, cert)
				ask := func() string {
					io.WriteString(conn, x.Request)
					got, _ := io.ReadAll(conn) // the server may close without the end of TLS
					return string(got)
				}
				if strings.HasPrefix(x.Response, "HTTP/1.1 200 Connected") { // and silence, which ends after 10 s
					silent.Go(func() {
						if got := ask(); got != x.Response {
							t.Errorf("%s: got %q, want %q", x.Name, got, x.Response)
						}
					})
					continue
				}
				if g, w := stable(ask()), stable(x.Response); g != w {
					t.Errorf("%s: got %q, want %q", x.Name, g, w)
				}
			}
		})
	}
}

// joined connects an agent. leave ends it, and waits until the server knows.
func (s *secureServer) joined(c AgentConfig) (leave func()) {
	s.t.Helper()
	a, err := NewAgent(c, AgentOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	_, changed := s.agents.pick(nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	<-changed
	return func() {
		cancel()
		<-done
		for end := time.Now().Add(10 * time.Second); s.agents.state(c.ClientIdentifier) != stateClosed; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				s.t.Fatal("the server does not notice that the agent has gone")
			}
		}
	}
}

// listenAll holds a port at 127.0.0.1 and at all addresses.
func listenAll(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// TestGoldenAdmin asks the agent's admin socket what the original was asked.
func TestGoldenAdmin(t *testing.T) {
	t.Parallel()
	s := startSecure(t, ServerConfig{Domain: "example.com"})
	c := s.agent()
	c.AdminUnixSocket = filepath.Join(t.TempDir(), "admin.sock")
	_, changed := s.agents.pick(nil)
	a := runAgent(t, c)
	<-changed
	services := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.services)
	}
	after := map[string]int{"liveconfig-ok": 1, "liveconfig-refused-by-server": 1, "liveconfig-without-service-map": 0}
	for _, x := range exchanges(t, "admin-socket-single-port", "36635", fmt.Sprint(testport.One(t))) {
		if x.Name == "liveconfig-server-down" {
			s.stop()
		}
		conn, err := net.Dial("unix", c.AdminUnixSocket)
		if err != nil {
			t.Fatal(err)
		}
		x.play(t, conn)
		if want, ok := after[x.Name]; ok && services() != want {
			t.Errorf("%s: the agent knows %d services, want %d", x.Name, services(), want)
		}
	}
}

// TestGoldenThreshold lets threshold's client in, whose name is in its
// certificate alone, and serves visitors by it.
func TestGoldenThreshold(t *testing.T) {
	t.Parallel()
	s := startSecure(t, ServerConfig{Domain: "example.com"})
	s.ca.client("1.node@example.com", "node")
	_, changed := s.agents.pick(nil)
	conn := s.dial(s.addr[0], "node")
	p := &peer{t: t, conn: conn, r: bufio.NewReader(conn), want: newSide(), got: newSide()}
	var visitor net.Conn
	for _, e := range recorded(t, "threshold-multi-tenant-transcript") {
		switch {
		case e.Conn != 1: // its PUT of an empty set
		case strings.Contains(e.Body, `"action":3`):
			p.send(e) // its SOCKS5 exit, which is not there: the server goes on
			if got := s.agents.state("1.node"); got != stateConnected {
				t.Errorf("after a message that means nothing: got %s, want %s", got, stateConnected)
			}
			visitor.Close()
			return
		case e.From == "client":
			p.send(e)
		case e.Text != "":
			got := make([]byte, len(e.Text))
			if _, err := io.ReadFull(p.r, got); err != nil || string(got) != e.Text {
				t.Fatalf("got %q, %v, want %q", got, err, e.Text)
			}
		default:
			if strings.HasPrefix(e.Body, "{") {
				<-changed
				port := int(testport.One(t))
				set := fmt.Sprintf(`[{"ClientId":"1.node","ListenAddress":"127.0.0.1","ListenPort":%d,"BackEndService":"fooService","HaProxyProxyProtocol":true}]`, port)
				parsed, f, _, err := parseSet([]byte(set), form{})
				if err == nil {
					err = s.apply(parsed, f)
				}
				if err != nil {
					t.Fatal(err)
				}
				if visitor, err = net.Dial("tcp", fmt.Sprint("127.0.0.1:", port)); err != nil {
					t.Fatal(err)
				}
				defer visitor.Close()
				io.WriteString(visitor, "bye\n")
			}
			p.expect(e)
		}
	}
}

// TestGoldenRefused answers the agent as the original does to one that it does
// not let in. The agent hangs up, and tries again.
func TestGoldenRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"single-port-identity-mismatch", "first-readme-transcript-no-tls", "single-port-duplicate-identifier"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln := listenOnly(t)
			runAgent(t, AgentConfig{ClientIdentifier: "TestClient1", ServerAddr: ln.Addr().String()})
			for _, e := range recorded(t, name) {
				if e.From != "server" || !strings.HasPrefix(e.Text, "HTTP/1.1 502") {
					continue
				}
				for range 2 {
					conn, err := ln.Accept()
					if err != nil {
						t.Fatal(err)
					}
					conn.SetDeadline(time.Now().Add(10 * time.Second))
					r := bufio.NewReader(conn)
					for line := ""; line != "\r\n"; {
						if line, err = r.ReadString('\n'); err != nil {
							t.Fatal(err)
						}
					}
					io.WriteString(conn, e.Text) // and the conn stays open, as the original leaves it
					if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
						t.Errorf("after the refusal: got %q, %v, want that the agent hangs up", b, err)
					}
					conn.Close()
				}
				return // the others are the same
			}
		})
	}
}

// TestGoldenWindow sends as many bytes as the original did in its frames, and
// wants no frame beyond the window of 256 KiB in either direction.
func TestGoldenWindow(t *testing.T) {
	t.Parallel()
	var frames []struct {
		From, Frame, Header string
		Stream, Length      int
	}
	b, err := os.ReadFile("testdata/single-port-window-updates.headers.json")
	if err == nil {
		err = json.Unmarshal(b, &frames)
	}
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, f := range frames {
		if f.From == "client" && f.Frame == "data" && f.Stream == 3 {
			total += f.Length
		}
	}
	const window = 256 << 10
	if total <= 2*window {
		t.Fatalf("the recording has %d bytes: too few to need a window", total)
	}
	up := listenLocal(t, func(c net.Conn) {
		defer c.Close()
		io.ReadFull(c, make([]byte, 1))
		c.Write(make([]byte, total))
	})
	ln := listenOnly(t)
	runAgent(t, AgentConfig{ClientIdentifier: "TestClient1", ServerAddr: ln.Addr().String(), ServiceToLocalAddrMap: map[string]string{"app": up}})
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(conn)
	for line := ""; line != "\r\n"; {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	io.WriteString(conn, "HTTP/1.1 200 Connected to Tunnel\n\n")
	send := func(kind byte, flags uint16, stream, length int, body string) {
		h := []byte{0, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(h[2:], flags)
		binary.BigEndian.PutUint32(h[4:], uint32(stream))
		binary.BigEndian.PutUint32(h[8:], uint32(length))
		conn.Write(append(h, body...))
	}
	const syn, ack, fin = 1, 2, 4
	message := `{"action":1,"service":"app"}` + "\n"
	credit, got, fins, largest := window, 0, 0, 0
	for fins == 0 {
		var h [headerSize]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			t.Fatalf("%v after %d bytes of %d", err, got, total)
		}
		flags, stream, length := binary.BigEndian.Uint16(h[2:]), binary.BigEndian.Uint32(h[4:]), int(binary.BigEndian.Uint32(h[8:]))
		if flags&syn != 0 {
			send(typeWindow, ack, int(stream), 0, "")
			if stream == 3 {
				send(typeData, 0, 3, 1, "x")
			}
		}
		if flags&fin != 0 && stream == 3 {
			fins++
		}
		if h[1] != typeData {
			continue
		}
		if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
			t.Fatal(err)
		}
		if stream == 1 {
			send(typeData, 0, 1, len(okWord), okWord)
			send(typeData, 0, 1, len(message), message)
			continue
		}
		got += length
		largest = max(largest, length)
		if credit -= length; credit < 0 {
			t.Fatalf("the agent sent %d bytes beyond the window", -credit)
		}
		if credit <= window/2 {
			send(typeWindow, 0, 3, window-credit, "")
			credit = window
		}
	}
	if got != total || largest > maxFrameOld {
		t.Errorf("got %d bytes in frames of at most %d, want %d in frames of %d", got, largest, total, maxFrameOld)
	}
	send(typeWindow, fin, 3, 0, "")
}
