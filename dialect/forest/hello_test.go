package forest

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"adit/internal/testhello"
	"adit/internal/testport"
)

// echo is an upstream that sends back what it gets.
func echo(t *testing.T) string {
	return listenLocal(t, func(c net.Conn) {
		defer c.Close()
		io.Copy(c, c)
	})
}

// TestHellos wants each kind of first message treated as every door for TLS
// does.
func TestHellos(t *testing.T) {
	t.Parallel()
	s, addr := startServer(t, ServerConfig{})
	_, changed := s.agents.pick(nil)
	runAgent(t, AgentConfig{ClientIdentifier: "home", ServerAddr: addr[0], ServiceToLocalAddrMap: map[string]string{"echo": echo(t)}})
	<-changed
	port := int(testport.One(t))
	set := fmt.Sprintf(`[{"ClientIdentifier":"home","ListenAddress":"127.0.0.1","ListenPort":%d,"ListenHostnameGlob":"www.*.com","BackEndService":"echo"}]`, port)
	if status, text := put(t, addr[0], set); status != 200 {
		t.Fatalf("PUT: got %d %s, want 200", status, text)
	}
	dial := func() net.Conn {
		c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	t.Run("by name", func(t *testing.T) { testhello.Run(t, dial, "www.example.com") })

	// With an entry for everybody nobody is refused, whatever it sends.
	set = fmt.Sprintf(`[{"ClientIdentifier":"home","ListenAddress":"127.0.0.1","ListenPort":%d,"ListenHostnameGlob":"www.*.com","BackEndService":"none"},
		{"ClientIdentifier":"home","ListenAddress":"127.0.0.1","ListenPort":%[1]d,"ListenHostnameGlob":"*","BackEndService":"echo"}]`, port)
	if status, text := put(t, addr[0], set); status != 200 {
		t.Fatalf("PUT: got %d %s, want 200", status, text)
	}
	for _, said := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x00\x00", "\x16\x03\x01\x02\x00", "SSH-2.0-x\r\n"} {
		c := dial()
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, said)
		got := make([]byte, len(said))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != said {
			t.Errorf("%q: got %q, %v, want it sent back", said, got, err)
		}
	}
}
