package admin_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"adit/admin"
	"adit/internal/testdir"
)

func TestListenAddresses(t *testing.T) {
	t.Parallel()
	for addr, ok := range map[string]bool{
		"127.0.0.1:0": true, ":9090": true, "[::1]:9090": true, "unix:/run/a.sock": true,
		"": false, "9090": false, "127.0.0.1": false, "127.0.0.1:x": false, "127.0.0.1:65536": false, "unix:": false,
		"unix:/" + strings.Repeat("p", 200): false,
	} {
		if err := admin.CheckAddress(addr); (err == nil) != ok {
			t.Errorf("%q: got %v", addr, err)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testdir.Short(t), "admin.sock")
	addr := "unix:" + path

	// What a process that was killed leaves behind.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()

	ln, err := admin.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	if admin.Public(ln) {
		t.Error("a socket counts as public")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
	if again, err := admin.Listen(addr); err == nil {
		again.Close()
		t.Error("a socket in use was taken over")
	}

	f := newFixture(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- admin.Serve(ctx, ln, f, nil) }()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("http://localhost/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("got %s, want 200", resp.Status)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is still there")
	}

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ln, err := admin.Listen(addr); err == nil {
		ln.Close()
		t.Error("a file was replaced by a socket")
	}
}

func TestPublic(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{"127.0.0.1:0": false, ":0": true, "0.0.0.0:0": true} {
		ln, err := admin.Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := admin.Public(ln); got != want {
			t.Errorf("%s: got %v, want %v", addr, got, want)
		}
		ln.Close()
	}
}

// Those who open connections and say nothing do not keep others out for long,
// nor the end of the server.
func TestSilentConns(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	ln, err := admin.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- admin.Serve(ctx, ln, f, nil) }()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range 300 { // more than there may be
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	conns[0].Close()
	for { // until there is room
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		c.Close()
		if err != nil {
			continue
		}
		if resp.StatusCode != 200 {
			t.Errorf("got %s, want 200", resp.Status)
		}
		resp.Body.Close()
		break
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
