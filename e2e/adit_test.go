package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const domain = "example.com"

// A server is an adit server process with what agents need to reach it.
type server struct {
	*process
	addr   string // of visitors and agents
	dir    string
	secret string // the file
	args   []string
}

// startServer starts a server on loopback with more arguments than the usual.
func startServer(t *testing.T, more ...string) *server {
	t.Helper()
	return startServerAt(t, "127.0.0.1", nil, more...)
}

// startServerAt starts a server on host, through the command prefix if there
// is one, such as ip netns exec.
func startServerAt(t *testing.T, host string, prefix []string, more ...string) *server {
	t.Helper()
	need(t, "go")
	dir := t.TempDir()
	s := &server{addr: net.JoinHostPort(host, freePort(t)), dir: dir, secret: filepath.Join(dir, "secret")}
	if err := os.WriteFile(s.secret, []byte("an example secret, long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.args = slices.Concat(prefix, []string{binary, "server", "--listen", s.addr, "--domain", domain,
		"--data-dir", filepath.Join(dir, "data"), "--secret-file", s.secret}, more)
	s.start(t)
	if prefix == nil {
		waitAccepts(t, s.process, s.addr)
	}
	return s
}

// start starts the process, again if it had ended, and does not wait for it.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.process = start(t, "server", aditCommand(s.args))
}

// agent starts an agent of the server with these arguments.
func (s *server) agent(t *testing.T, args ...string) *process {
	t.Helper()
	return s.agentVia(t, s.addr, nil, args...)
}

// agentVia starts an agent that reaches the server at addr.
func (s *server) agentVia(t *testing.T, addr string, prefix []string, args ...string) *process {
	t.Helper()
	return start(t, "agent", aditCommand(slices.Concat(prefix, []string{binary}, args,
		[]string{"--server", "ws://" + addr, "--secret-file", s.secret})))
}

// aditCommand keeps this test's own settings from adit, which reads its
// settings from variables of the same prefix. What adit remembers is neither that
// of whoever runs this nor of another test.
func aditCommand(argv []string) *exec.Cmd {
	c := exec.Command(argv[0], argv[1:]...)
	c.Env = append(environ(), "XDG_STATE_HOME="+filepath.Join(filepath.Dir(binary), "state", rand.Text()))
	return c
}

// hostURL is where visitors reach the tunnel id on the server.
func (s *server) hostURL(id string) string {
	_, port, _ := net.SplitHostPort(s.addr)
	return fmt.Sprintf("http://%s.%s:%s", id, domain, port)
}

// visitor returns a client for which every name is the server.
func (s *server) visitor(t *testing.T) *http.Client {
	t.Helper()
	var d net.Dialer
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, s.addr)
		},
		MaxIdleConnsPerHost: 64,
		DisableCompression:  true,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// waitTunnel waits until the tunnel id answers visitors over HTTP.
func (s *server) waitTunnel(t *testing.T, id string) {
	t.Helper()
	visitor := s.visitor(t)
	eventually(t, "the tunnel "+id+" answers", 20*time.Second, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, "GET", s.hostURL(id)+"/", nil)
		if err != nil {
			return err
		}
		resp, err := visitor.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", resp.Status)
		}
		return nil
	})
}

// startHTTP starts a server and an agent for the tunnel "web" to upstream.
func startHTTP(t *testing.T, upstream string) (*server, *process) {
	t.Helper()
	s := startServer(t)
	a := s.agent(t, "http", upstream, "--id", "web")
	s.waitTunnel(t, "web")
	return s, a
}

// startTCP starts a server and an agent for the tunnel "raw" to upstream, and
// returns the public port on 127.0.0.1 as well.
func startTCP(t *testing.T, upstream string) (s *server, a *process, port string) {
	t.Helper()
	port = freePort(t)
	s = startServer(t, "--tcp-ports", port)
	a = s.agent(t, "tcp", upstream, "--id", "raw", "--port", port)
	waitAccepts(t, a, "127.0.0.1:"+port)
	return s, a, port
}

// environ is the environment without what tells these tests what to do, since
// adit refuses variables of its own that it does not know.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ADIT_") })
}
