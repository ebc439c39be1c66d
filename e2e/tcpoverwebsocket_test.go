package e2e

import (
	"net"
	"strings"
	"testing"
	"time"
)

// startTCPOverWebsocket starts both programs in front of a target, and returns
// the local port that leads to it. With nginx the page's configuration is
// between them, and TLS.
func startTCPOverWebsocket(t *testing.T, target string, nginx bool) (port string) {
	t.Helper()
	at := "127.0.0.1:" + freePort(t)
	s := start(t, "server", aditCommand([]string{binary, "tcp-over-websocket", "server", "-listen_ws", at, "-connect_tcp", target}))
	waitListens(t, s, "Listening to")
	connect, trusted := "ws://"+at, ""
	if nginx {
		front := freePort(t)
		trusted = nginxOf(t, "dialects/tcp-over-websocket.md", front, at)
		connect = "wss://localhost:" + front + "/any/path"
	}
	port = freePort(t)
	c := aditCommand([]string{binary, "tcp-over-websocket", "client", "-listen_tcp", "127.0.0.1:" + port, "-connect_ws", connect})
	if trusted != "" {
		c.Env = append(c.Env, "SSL_CERT_FILE="+trusted)
	}
	waitListens(t, start(t, "client", c), "Listening to")
	return port
}

func TestProgramsThroughTCPOverWebsocket(t *testing.T) {
	t.Parallel()
	g := startTargets(t)
	for name, nginx := range map[string]bool{"plain": false, "behind nginx with TLS": true} {
		var ports [3]string
		for i, at := range g.at {
			ports[i] = startTCPOverWebsocket(t, at, nginx)
		}
		g.journeys(t, straight(name, ports))
	}
}

func TestTCPOverWebsocketTargetDown(t *testing.T) {
	t.Parallel()
	port := startTCPOverWebsocket(t, "127.0.0.1:1", false)
	// The reset comes so early that curl may not see that it was connected.
	_, err := try(t.Context(), time.Minute, need(t, "curl"), "-sS", "-q", "--noproxy", "*", "http://127.0.0.1:"+port+"/")
	if err == nil || !strings.Contains(err.Error(), "(56)") && !strings.Contains(err.Error(), "(7)") {
		t.Errorf("got %v, want a reset", err)
	}
}

// Either side may be killed: both ends of a connection see that it is over, and
// the next one works once the side is back.
func TestTCPOverWebsocketKilled(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	at, port := "127.0.0.1:"+freePort(t), freePort(t)
	command := map[string][]string{
		"server": {binary, "tcp-over-websocket", "server", "-listen_ws", at, "-connect_tcp", ln.Addr().String()},
		"client": {binary, "tcp-over-websocket", "client", "-listen_tcp", "127.0.0.1:" + port, "-connect_ws", "ws://" + at},
	}
	running := map[string]*process{}
	begin := func(name string) {
		running[name] = start(t, name, aditCommand(command[name]))
		waitListens(t, running[name], "Listening to")
	}
	begin("server")
	begin("client")
	for _, name := range []string{"server", "client"} {
		const many = 50
		var ends []net.Conn
		for range many {
			caller, err := net.DialTimeout("tcp", "127.0.0.1:"+port, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer caller.Close()
			target, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer target.Close()
			ends = append(ends, caller, target)
		}
		running[name].kill()
		for i, c := range ends {
			c.SetDeadline(time.Now().Add(20 * time.Second))
			if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
				t.Errorf("%s killed: end %d read %d, %v, want that it is over", name, i, n, err)
			}
		}
		begin(name)
	}
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}
