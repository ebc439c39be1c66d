package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/testca"
	"adit/server"
	"adit/session"
	"adit/tunnel"
)

// Environment of a process of this test that plays agents: the server's URL,
// the secret, and how many.
const (
	idleURL    = "ADIT_TEST_IDLE_URL"
	idleSecret = "ADIT_TEST_IDLE_SECRET"
	idleCount  = "ADIT_TEST_IDLE_COUNT"
)

// TestIdleAgentsTakeLittle holds the server to what docs/benchmarks.md says of
// its memory for idle agents, with some room: live objects and stacks, which do
// not depend on the garbage collector's timing. The agents are in a process of
// their own. It must not run beside other tests.
func TestIdleAgentsTakeLittle(t *testing.T) {
	if os.Getenv(idleURL) != "" {
		playIdleAgents(t)
		return
	}
	if testing.Short() {
		t.Skip("takes some seconds, and the race detector takes memory of its own")
	}
	const few, many = 50, 400
	for _, tt := range []struct {
		name   string
		change func(*server.Options)
		url    func(f *fixture) string
		limit  int64 // bytes for each agent
	}{
		{"plain", nil, func(f *fixture) string { return "ws://" + f.Addr().String() }, 6 << 10},
		{"TLS", withTLS(t, testca.New(t)), func(f *fixture) string { return "wss://" + f.TLSAddr().String() }, 13 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, func(o *server.Options) {
				o.Logger = nil // the fixture would keep what is logged
				o.Dialects = []dialect.Dialect{native.New(native.Options{})}
				if tt.change != nil {
					tt.change(o)
				}
			})
			idleAgents(t, tt.url(f), f.secret.Reveal(), "few", few) // what the program takes once is there then
			before := idleMemory(t)
			idleAgents(t, tt.url(f), f.secret.Reveal(), "many", many)
			took := (idleMemory(t) - before) / many
			t.Logf("an idle agent takes %d bytes", took)
			if took > tt.limit {
				t.Errorf("an idle agent takes %d bytes of the server's memory, want at most %d", took, tt.limit)
			}
		})
	}
}

// idleAgents starts a process with that many agents, and returns when they are
// connected and none of their sessions has a goroutine any more.
func idleAgents(t *testing.T, url, secret, name string, count int) {
	t.Helper()
	before := runtime.NumGoroutine()
	cmd := exec.Command(os.Args[0], "-test.run=^TestIdleAgentsTakeLittle$")
	cmd.Env = append(os.Environ(), idleURL+"="+url, idleSecret+"="+secret, idleCount+"="+name+" "+strconv.Itoa(count))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Errorf("process with agents: %v", err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("process with agents said %q, %v", line, err)
	}
	for limit := time.Now().Add(patience); runtime.NumGoroutine() > before+10; { // the server has some for itself
		if time.Now().After(limit) {
			t.Fatalf("with %d idle agents the server has %d goroutines more than before", count, runtime.NumGoroutine()-before)
		}
		time.Sleep(10 * time.Millisecond) // sessions that come to rest tell nobody
	}
}

// idleMemory returns the bytes of live objects and of stacks.
func idleMemory(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// playIdleAgents connects agents that bind a name each, until standard input
// ends.
func playIdleAgents(t *testing.T) {
	name, number, _ := strings.Cut(os.Getenv(idleCount), " ")
	count, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	d := &native.Dialer{
		Server: os.Getenv(idleURL),
		Token:  func() (string, error) { return os.Getenv(idleSecret), nil },
		TLS:    &tls.Config{ServerName: domain, InsecureSkipVerify: true},
	}
	opts := native.SessionOptions{Session: session.Options{Ping: 2100 * time.Millisecond}} // the server rests after 2 s
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range count {
		s, err := native.Dial(ctx, d, opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		id := fmt.Sprintf("%s-%d", name, i)
		if _, err = s.Bind(ctx, dialect.Binding{Key: id, Kind: dialect.HTTP, ID: tunnel.ID(id)}); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}
