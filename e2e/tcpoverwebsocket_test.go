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

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}
