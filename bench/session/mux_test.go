// Package session measures adit's native session beside hashicorp/yamux, in
// one run, over loopback TCP. The agent's end is a process of its own, as in
// life; cpu-us/op and cpu-s/GB are the CPU time of both processes.
//
//	go test -bench . -benchtime 2s -count 5 ./session
package session

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"adit/internal/pacing"
	"adit/internal/wsconn"
	native "adit/session"
)

// A kind is one of the multiplexers that are compared.
type kind struct {
	name string

	// server and agent put the multiplexer on the two ends of a conn. The
	// server opens streams and the agent accepts them.
	server func(net.Conn) (open func() (net.Conn, error), close func(), err error)
	agent  func(net.Conn) (accept func() (net.Conn, error), err error)
}

// kinds: adit runs over WebSocket messages, as between a server and an agent;
// yamux straight over TCP. tcp is no multiplexer but the conn itself, as one
// stream: what the machine can do.
var kinds = []kind{
	{"adit", nativeServer, nativeAgent},
	{"yamux", yamuxServer, yamuxAgent},
	{"tcp", tcpServer, tcpAgent},
}

func nativeServer(c net.Conn) (func() (net.Conn, error), func(), error) {
	s, _, err := native.NewAcceptor(nil).Accept(context.Background(), wsconn.New(c, wsconn.Server, wsconn.Options{}), nil, nil)
	if err != nil {
		return nil, nil, err
	}
	return func() (net.Conn, error) { return s.Open(nil) }, func() { s.Close() }, nil
}

func nativeAgent(c net.Conn) (func() (net.Conn, error), error) {
	s, err := native.Dial(context.Background(), wsconn.New(c, wsconn.Client, wsconn.Options{}), nil)
	if err != nil {
		return nil, err
	}
	return func() (net.Conn, error) {
		st, err := s.Accept(context.Background())
		if err == nil {
			st.Accepted()
		}
		return st, err
	}, nil
}

func yamuxConfig() *yamux.Config {
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	return cfg
}

func yamuxServer(c net.Conn) (func() (net.Conn, error), func(), error) {
	s, err := yamux.Server(c, yamuxConfig())
	if err != nil {
		return nil, nil, err
	}
	return s.Open, func() { s.Close() }, nil
}

func yamuxAgent(c net.Conn) (func() (net.Conn, error), error) {
	s, err := yamux.Client(c, yamuxConfig())
	if err != nil {
		return nil, err
	}
	return s.Accept, nil
}

func tcpServer(c net.Conn) (func() (net.Conn, error), func(), error) {
	return func() (net.Conn, error) { return c, nil }, func() { c.Close() }, nil
}

func tcpAgent(c net.Conn) (func() (net.Conn, error), error) {
	var once sync.Once
	return func() (conn net.Conn, err error) {
		err = io.EOF
		once.Do(func() { conn, err = c, nil })
		return conn, err
	}, nil
}

// A pair is a server in this process and an agent in another.
type pair struct {
	open  func() (net.Conn, error)
	agent *exec.Cmd
}

// Environment of the agent's process.
const (
	envKind = "MUX_AGENT"
	envRole = "MUX_ROLE"
	envAddr = "MUX_ADDR"
)

// newPair starts an agent that treats streams as role says.
func newPair(b *testing.B, k kind, role string) *pair {
	b.Helper()
	// The pacing timers of BBR, where that is the default, are in no figure.
	lc := net.ListenConfig{Control: pacing.Control}
	ln, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envKind+"="+k.name, envRole+"="+role, envAddr+"="+ln.Addr().String())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	c, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	open, closeMux, err := k.server(c)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(closeMux)
	return &pair{open, cmd}
}

// cpu returns the CPU time that both processes have used.
func (p *pair) cpu() time.Duration {
	// The clock of another process, as clock_getcpuclockid(3) makes it.
	return cpuOf(int32(^p.agent.Process.Pid)<<3|2) + cpuOf(unix.CLOCK_PROCESS_CPUTIME_ID)
}

func cpuOf(clock int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// TestMain runs the agent if this is its process.
func TestMain(m *testing.M) {
	for _, k := range kinds {
		if k.name == os.Getenv(envKind) {
			if err := runAgent(k, os.Getenv(envRole), os.Getenv(envAddr)); err != nil {
				fmt.Fprintln(os.Stderr, "agent:", err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func runAgent(k kind, role, addr string) error {
	c, err := (&net.Dialer{Control: pacing.Control}).Dial("tcp", addr)
	if err != nil {
		return err
	}
	accept, err := k.agent(c)
	if err != nil {
		return err
	}
	serve := map[string]func(net.Conn){"echo": echo, "sink": sink, "drain": drain}[role]
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		st, err := accept()
		if err != nil {
			return nil
		}
		wg.Go(func() {
			defer st.Close()
			serve(st)
		})
	}
}
