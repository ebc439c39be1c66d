package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"adit/forward"
)

func TestForwardMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no forward", []string{"forward"}, "FORWARD is missing"},
		{"malformed", []string{"forward", "2222:a:b"}, `"b" is no port`},
		{"service without @", []string{"forward", "2222:office/ssh"}, "did you mean @office/ssh"},
		{"target without @", []string{"stdio", "office/ssh"}, "did you mean @office/ssh"},
		{"stdio beside another", []string{"forward", "3000", "stdio:a:22"}, "only go to one target"},
		{"reverse stdio", []string{"forward", "R:stdio:a:22"}, "R: listens on the server"},
		{"reverse name", []string{"forward", "R:server:2222:a:22"}, "no address of the server"},
		{"reverse socks for everybody", []string{"forward", "R:0.0.0.0:1080:socks"}, "--allow-ip"},
		{"reverse socks on another address", []string{"forward", "R:10.0.0.1:1080:socks", "--deny-ip", "192.0.2.1"}, "--allow-ip"},
		{"rule of socks without socks", []string{"forward", "R:2222:a:22", "--socks-allow", "*:*"}, "there is none"},
		{"rule for no visitors", []string{"forward", "3000", "--allow-ip", "10.0.0.0/8"}, "there are none"},
		{"rule about requests", []string{"forward", "R:2222:a:22", "--max-body", "1MB"}, "--max-body"},
		{"socks for everybody", []string{"tcp", "socks", "--port", "1080"}, "--allow-ip"},
		{"socks over HTTP", []string{"http", "socks"}, "1 to 65535"},
		{"services in rules of socks", []string{"tcp", "socks", "--service", "a", "--socks-allow", "@a/b"}, "--socks-allow: forward rule"},
		{"rule of socks for another upstream", []string{"tcp", "22", "--socks-allow", "*:*"}, `the one here is "22"`},
		{"socks with the PROXY protocol", []string{"tcp", "socks", "--service", "a", "--proxy-protocol", "v2"}, "part of this program"},
		{"UDP with the PROXY protocol", []string{"udp", "53", "--proxy-protocol", "v2"}, "takes datagrams"},
		{"UDP with a hostname", []string{"udp", "53", "--hostname", "a.example.org"}, "unknown flag"},
		{"UDP with a rule about requests", []string{"udp", "53", "--basic-auth", "a:b"}, "--basic-auth"},
		{"UDP to TCP", []string{"udp", "tcp://a:53"}, "udp is allowed"},
		{"UDP to a socket", []string{"udp", "unix:/run/x"}, "takes no datagrams"},
		{"TCP to UDP", []string{"tcp", "udp://a:53"}, "it is for adit udp"},
		{"name of nothing", []string{"forward", "3000", "--id", "a"}, "there are none"},
		{"socks port", []string{"socks", "70000"}, "1 to 65535"},
		{"target", []string{"stdio", "a"}, "no port"},
		{"rule of the server", []string{"server", "--forward", "a"}, "--forward: forward rule"},
		{"service of HTTP", []string{"http", "3000", "--service", "a"}, "unknown flag"},
		{"service name", []string{"tcp", "22", "--service", "A"}, "--service"},
		{"service with a port", []string{"tcp", "22", "--service", "a", "--port", "1"}, "neither --port"},
		{"service with a rule", []string{"tcp", "22", "--service", "a", "--allow-ip", "10.0.0.0/8"}, "neither --port"},
		{"reverse beside tunnels", []string{"agent", "--tunnel", "a=http://b:1", "--forward", "R:1:b:2", "--secret-file", "x"}, "R: is a tunnel here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := tt.args
			if tt.name == "reverse beside tunnels" {
				file := filepath.Join(t.TempDir(), "secret")
				if err := os.WriteFile(file, []byte("an example secret, long enough"), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args[:len(args)-1:len(args)-1], file)
			}
			code, _, errOut := call(t, nil, args...)
			if code != exitUsage || !strings.Contains(errOut, tt.want) {
				t.Errorf("got code %d and %q, want %d and %q", code, errOut, exitUsage, tt.want)
			}
		})
	}
}

// Rules of the environment are for commands that have visitors, and are no
// mistake where there are none.
func TestForwardIgnoresRulesOfTheEnvironment(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, env, want string
		args            []string
	}{
		{"no visitors", "ADIT_ALLOW_IP=192.0.2.1", "no credential", []string{"forward", "3000"}},
		{"no requests", "ADIT_MAX_BODY=1MB", "no credential", []string{"forward", "3000"}},
		{"no socks", "ADIT_SOCKS_ALLOW=*:*", "no credential", []string{"forward", "R:2222:a:22"}},
		{"visitors", "ADIT_ALLOW_IP=192.0.2.1", "no credential", []string{"forward", "R:0.0.0.0:1080:socks"}},
		{"visitors without requests", "ADIT_MAX_BODY=1MB", "--max-body", []string{"forward", "R:2222:a:22"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, _, errOut := call(t, []string{tt.env}, tt.args...)
			if code != exitUsage || !strings.Contains(errOut, tt.want) {
				t.Errorf("got code %d and %q, want %d and %q", code, errOut, exitUsage, tt.want)
			}
		})
	}
}

// Forwards run beside the tunnels of a config file, and alone.
func TestForwardCommands(t *testing.T) {
	t.Parallel()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "from the target") }))
	defer up.Close()
	target := up.Listener.Addr().String()
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("an example secret, long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newCommand(t).start(t, "server", "--listen", "127.0.0.1:0", "--secret-file", secret, "--data-dir", dir, "--forward", target)
	url := "ws://" + s.err.wait(t, `listen"?[=:]"?(127\.0\.0\.1:\d+)`)
	get := func(network, addr string) {
		t.Helper()
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("http://target/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "from the target" {
			t.Errorf("%s: got %q, %v, want what the target says", addr, b, err)
		}
	}
	alone, beside := filepath.Join(dir, "alone"), filepath.Join(dir, "beside")
	c := newCommand(t).start(t, "forward", "unix:"+alone+":"+target, "--server", url, "--secret-file", secret)
	c.out.wait(t, "->")
	get("unix", alone)

	file := filepath.Join(dir, "agent.yaml")
	text := "server: " + url + "\nsecret-file: " + secret + "\nlog-level: info\ntunnels:\n  - http: '" + target + "'\n    id: web\nforward: ['unix:" + beside + ":" + target + "']\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := call(t, nil, "config", "check", file); code != exitDone {
		t.Errorf("config check: got code %d: %s", code, out)
	}
	a := newCommand(t).start(t, "agent", "--config", file)
	a.err.wait(t, "forwarding")
	get("unix", beside)
	if code := a.stop(); code != exitDone {
		t.Errorf("agent: got code %d, want %d", code, exitDone)
	}
	if code := c.stop(); code != exitDone {
		t.Errorf("forward: got code %d, want %d", code, exitDone)
	}
	if _, err := os.Stat(beside); err == nil {
		t.Error("the socket is still there")
	}
	code, _, errOut := call(t, nil, "stdio", "localhost:1", "--server", url, "--secret-file", secret)
	if code != exitFailed || !strings.Contains(errOut, "forbidden") {
		t.Errorf("stdio: got code %d and %q, want %d and the reason", code, errOut, exitFailed)
	}
}

func TestForwardDoesNotListen(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	taken := ln.Addr().(*net.TCPAddr).Port
	free := taken + 10000
	if free > 65535 {
		free = 10000
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"port in use", []string{"forward", fmt.Sprintf("%d:db.internal:5432", taken)}, fmt.Sprintf("port %d of this machine is in use: choose another one to listen at, such as %d:db.internal:5432\n", taken, free)},
		{"port of the server's own", []string{"forward", strconv.Itoa(taken)}, fmt.Sprintf("such as %d:localhost:%d\n", free, taken)},
		{"socks", []string{"socks", strconv.Itoa(taken)}, fmt.Sprintf("such as %d:socks\n", free)},
		{"no address of this machine", []string{"forward", "192.0.2.1:2222:localhost:22"}, "this machine has no address 192.0.2.1\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, _, errOut := call(t, []string{"ADIT_TOKEN=an example secret, long enough"}, tt.args...)
			if code != exitFailed || !strings.HasPrefix(errOut, "adit: forward ") || !strings.HasSuffix(errOut, tt.want) {
				t.Errorf("got code %d and %q, want %d and %q", code, errOut, exitFailed, tt.want)
			}
		})
	}
}

func TestForwardOfNoAddress(t *testing.T) {
	t.Parallel()
	s, err := forward.ParseSpec("r:2222:localhost:22")
	if err != nil {
		t.Fatal(err)
	}
	err = notListening(s, &net.OpError{Op: "listen", Err: &net.DNSError{Name: "r", IsNotFound: true}})
	if want := "R: for a port of the server is in capitals"; !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %q, want something that ends with %q", err, want)
	}
}

func TestStdioSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	c := newCommand(t, "ADIT_TOKEN=an example secret, long enough")
	c.console = true
	c.start(t, "stdio", "db.internal:5432", "--server", "ws://127.0.0.1:1")
	c.err.wait(t, `^adit: waiting for the server: 127.0.0.1:1: connection refused\n`)
	c.stop()
}
