package forest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"adit/internal/testport"
)

// named is an upstream that answers with its name.
func named(t *testing.T, name string) string {
	return listenLocal(t, func(c net.Conn) {
		defer c.Close()
		io.WriteString(c, name)
	})
}

func visit(t *testing.T, port int) string {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// mute connects an original agent that falls silent after its handshake.
func mute(t *testing.T, s *Server, addr, id string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_, changed := s.agents.pick(nil)
	fmt.Fprintf(conn, "CONNECT /_controlPath/ HTTP/1.1\r\nHost: x\r\n%s: %s\r\n\r\n", headerClientID, id)
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "\x00\x01\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00"+"\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x10"+helloWord)
	<-changed
	return conn
}

// TestFailover wants visitors served by the next agent when one is silent,
// refuses or has gone, and by the first again when it is back.
func TestFailover(t *testing.T) {
	t.Parallel()
	s, addr := startServer(t, ServerConfig{})
	first := mute(t, s, addr[0], "first")
	_, changed := s.agents.pick(nil)
	runAgent(t, AgentConfig{ClientIdentifier: "refuses", ServerAddr: addr[0]})
	<-changed
	_, changed = s.agents.pick(nil)
	runAgent(t, AgentConfig{ClientIdentifier: "second", ServerAddr: addr[0], ServiceToLocalAddrMap: map[string]string{"app": named(t, "two")}})
	<-changed
	port := int(testport.One(t))
	set := fmt.Sprintf(`[{"ClientIdentifier":"first","FailoverClientIdentifiers":["refuses","second"],"ListenAddress":"127.0.0.1","ListenPort":%d,"BackEndService":"app"}]`, port)
	if status, text := put(t, addr[0], set); status != 200 || !strings.Contains(text, `"FailoverClientIdentifiers":["refuses","second"]`) {
		t.Fatalf("PUT: got %d %s, want 200 and the others named", status, text)
	}
	begin := time.Now()
	if got := visit(t, port); got != "two" {
		t.Errorf("the first is silent: got %q, want two", got)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("the first is silent: a visitor waited %v, want at most 5 s", d)
	}
	first.Close()
	begin = time.Now()
	if got := visit(t, port); got != "two" {
		t.Errorf("the first has gone: got %q, want two", got)
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("the first has gone: a visitor waited %v, want at most 1 s", d)
	}
	_, changed = s.agents.pick(nil)
	runAgent(t, AgentConfig{ClientIdentifier: "first", ServerAddr: addr[0], ServiceToLocalAddrMap: map[string]string{"app": named(t, "one")}})
	<-changed
	if got := visit(t, port); got != "one" {
		t.Errorf("the first is back: got %q, want one", got)
	}
}
