package forest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"adit/internal/testport"
)

// old connects an agent of a state of the original, which answers each visitor
// with the message that it was asked by.
func (s *secureServer) old(header, id, cert string) {
	s.t.Helper()
	conn := s.dial(s.addr[0], cert)
	line := ""
	if header != "" {
		line = header + ": " + id + "\r\n"
	}
	fmt.Fprintf(conn, "CONNECT /_controlPath/ HTTP/1.1\r\nHost: x\r\n%s\r\n", line)
	want := "HTTP/1.1 200 Connected to Tunnel\n\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		s.t.Fatalf("%s: got %q, %v, want %q", id, got, err, want)
	}
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard
	mux, err := yamux.Client(conn, c)
	if err != nil {
		s.t.Fatal(err)
	}
	control, err := mux.OpenStream()
	if err != nil {
		s.t.Fatal(err)
	}
	_, changed := s.agents.pick(nil)
	io.WriteString(control, helloWord)
	<-changed
	done := make(chan struct{})
	s.t.Cleanup(func() { mux.Close(); <-done })
	go func() {
		defer close(done)
		r := bufio.NewReader(control)
		io.ReadFull(r, make([]byte, len(okWord)))
		for {
			message, err := r.ReadString('\n')
			if err != nil {
				return
			}
			st, err := mux.OpenStream()
			if err != nil {
				return
			}
			io.WriteString(st, message)
			st.Close()
		}
	}()
}

// TestStatesSideBySide lets agents of all historical states of the original in at
// once, with both configurations, and asks each in its own words.
func TestStatesSideBySide(t *testing.T) {
	t.Parallel()
	const ports, services = `{"action":1,"transportProtocol":2,"localPort":4711}` + "\n", `{"action":1,"service":"4711"}` + "\n"
	states := []struct{ name, header, want string }{
		{"first-readme", "X-KTunnel-Identifier", ports},
		{"client-list", "X-KTunnel-Identifier", ports},
		{"two-port", "X-KTunnel-Identifier", ports},
		{"host-names", "X-KTunnel-Identifier", ports},
		{"services", "X-Threshold-Identifier", services},
		{"cn-check", "X-Threshold-ClientId", services},
		{"single-port", "X-Threshold-ClientId", services},
		{"admin-socket", "X-Threshold-ClientId", services},
		{"threshold", "", services},
	}
	for name, config := range map[string]ServerConfig{"single-port": {Domain: "example.com"}, "two-port": {TunnelControlPort: 1, ManagementPort: 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSecure(t, config)
			fronts := make(map[string]int)
			var entries []string
			for _, st := range states {
				cn := st.name // two-port: the state that compares wants the very name
				if !config.twoPort() {
					cn += "@example.com"
				} else if st.header == "" {
					continue // it came long after two ports
				}
				s.ca.client(cn, st.name)
				s.old(st.header, st.name, st.name)
				fronts[st.name] = int(testport.One(t))
				entry := fmt.Sprintf(`{"ClientIdentifier":%q,"ListenAddress":"127.0.0.1","ListenPort":%d,"BackEndService":"4711"}`, st.name, fronts[st.name])
				if config.twoPort() {
					entry = fmt.Sprintf(`{"ClientIdentifier":%q,"FrontEndListenPort":%d,"BackEndPort":4711}`, st.name, fronts[st.name])
				}
				entries = append(entries, entry)
			}
			conn := s.dial(s.addr[len(s.addr)-1], "client")
			set := "[" + strings.Join(entries, ",") + "]"
			fmt.Fprintf(conn, "PUT /tunnels HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(set), set)
			if b, _ := io.ReadAll(conn); !strings.HasPrefix(string(b), "HTTP/1.1 200") {
				t.Fatalf("PUT: got %q, want 200", b)
			}
			for _, st := range states {
				if port, ok := fronts[st.name]; ok {
					if got := visit(t, port); got != st.want {
						t.Errorf("%s: got %q, want %q", st.name, got, st.want)
					}
				}
			}
		})
	}
}

// TestSetIsAtomic refuses sets that cannot be, with the original's statuses, and
// wants everything as it was.
func TestSetIsAtomic(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "tunnels")
	ready := make(chan string, 1)
	s, err := NewServer(ServerConfig{}, ServerOptions{StateFile: state, Listen: func(int) (net.Listener, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		ready <- ln.Addr().String()
		return ln, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	runServer(t, s)
	addr := <-ready
	_, changed := s.agents.pick(nil)
	runAgent(t, AgentConfig{ClientIdentifier: "home", ServerAddr: addr, ServiceToLocalAddrMap: map[string]string{"a": named(t, "a"), "b": named(t, "b")}})
	<-changed
	was, fresh, low := int(testport.One(t)), int(testport.One(t)), 1
	_, taken, _ := net.SplitHostPort(listenAll(t).Addr().String())
	entry := func(client, address string, port any, service string) string {
		return fmt.Sprintf(`{"ClientIdentifier":%q,"ListenAddress":%q,"ListenPort":%v,"BackEndService":%q}`, client, address, port, service)
	}
	good := entry("home", "127.0.0.1", was, "a")
	if status, text := put(t, addr, "["+good+"]"); status != 200 {
		t.Fatalf("PUT: got %d %s, want 200", status, text)
	}
	kept, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	// Each is a set that would move the tunnel and open another, before what is
	// wrong with it.
	before := entry("home", "127.0.0.1", was, "b") + "," + entry("home", "127.0.0.1", fresh, "b") + ","
	for _, tt := range []struct {
		name   string
		set    string
		status int
		text   string
	}{
		{"no JSON", before + `{`, 422, "422 Unprocessable Entity: Can't Parse JSON\n"},
		{"wrong type", before + entry("home", "127.0.0.1", `"x"`, "b"), 422, "422 Unprocessable Entity: Can't Parse JSON\n"},
		{"unknown client", before + entry("ghost", "127.0.0.1", fresh, "b"), 404, "Client ghost Not Found\n"},
		{"no address", before + entry("home", "localhost", fresh, "b"), 400, "Bad Request: \"localhost\" is not an IP address.\n"},
		{"port in use", before + entry("home", "127.0.0.1", taken, "b"), 409, "Port Conflict Port 127.0.0.1 already in use\n"},
		{"port out of range", before + entry("home", "127.0.0.1", 70000, "b"), 500, "Unknown Listening Error\n"},
		{"address of another machine", before + entry("home", "192.0.2.1", fresh, "b"), 500, "Unknown Listening Error\n"},
		{"privileged port", before + entry("home", "127.0.0.1", low, "b"), 500, "Unknown Listening Error\n"},
	} {
		if tt.name == "privileged port" && mayListenAt(low) {
			continue
		}
		if status, text := put(t, addr, "["+tt.set+"]"); status != tt.status || text != tt.text {
			t.Errorf("%s: got %d %q, want %d %q", tt.name, status, text, tt.status, tt.text)
		}
		if got := visit(t, was); got != "a" {
			t.Errorf("%s: the tunnel of before: got %q, want a", tt.name, got)
		}
		if c, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", fresh), time.Second); err == nil {
			c.Close()
			t.Errorf("%s: a port of the refused set listens", tt.name)
		}
		if now, err := os.ReadFile(state); err != nil || string(now) != string(kept) {
			t.Errorf("%s: what is kept for a restart: got %s, %v, want %s", tt.name, now, err, kept)
		}
	}
	// Globs that overlap are no mistake: the most particular one wins.
	both := strings.TrimSuffix(good, "}") + `,"ListenHostnameGlob":"*.test"},` + strings.TrimSuffix(good, "}") + `,"ListenHostnameGlob":"x.*"}`
	if status, text := put(t, addr, "["+both+"]"); status != 200 {
		t.Errorf("overlapping globs: got %d %s, want 200", status, text)
	}
	var k keptSet
	if b, err := os.ReadFile(state); err != nil || json.Unmarshal(b, &k) != nil || len(k.Tunnels) != 2 {
		t.Errorf("kept: got %+v, %v, want two tunnels", k, err)
	}
}

// mayListenAt reports whether the system lets this user listen at a port.
func mayListenAt(port int) bool {
	ln, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
	if err == nil {
		ln.Close()
	}
	return err == nil
}
