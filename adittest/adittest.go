// Package adittest runs adit servers for the tests of programs that use
// package adit.
//
//	func TestShop(t *testing.T) {
//		srv := adittest.NewServer(t)
//		l := srv.Listen(t, adit.WithID("shop"))
//		go http.Serve(l, shop.Handler())
//
//		resp, err := srv.Client().Get(l.URL())
//		...
//	}
//
// They are real servers, of package server, on loopback or in memory. What a
// network does can be tried too: Cut breaks the connections of programs, and
// Restart stops the server and starts it again.
package adittest

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"adit"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/ingress"
	"adit/server"
)

const (
	patience  = 20 * time.Second // for what has to happen
	hold      = 5 * time.Second  // for programs that are away
	manyPorts = 8                // public ports of a server
)

// A Server is a server for tests. Its methods are safe for concurrent use.
type Server struct {
	fatalf func(format string, args ...any) // what a failure of the server itself leads to
	secret auth.Secret
	memory bool              // there is no socket
	ports  ingress.PortRange // none in memory
	change []func(*server.Options)
	client *http.Client

	restarting sync.Mutex // held while the server is stopped or started

	mu    sync.Mutex // guards the fields below
	url   string
	addr  string             // what it listens on
	door  *memoryDoor        // instead of that, in memory
	conns map[*conn]struct{} // of programs
	stop  func() error       // nil if the server does not run
}

// NewServer starts a server on a free port of loopback, which takes its own
// secret and tokens signed with it. It serves each ID at /<id>/ and at
// <id>.localhost, and gives out a few public TCP ports. Visitors of a program
// that is away wait for it for 5 s. change may change these options; Listen,
// Auth and Dialects are set.
//
// The server is closed at the end of the test.
func NewServer(t testing.TB, change ...func(*server.Options)) *Server {
	t.Helper()
	s := newServer(t.Fatalf, false, change)
	t.Cleanup(s.Close)
	return s
}

// NewMemoryServer is NewServer without a socket, so that it can be used in a
// bubble of package testing/synctest, where time passes at once. Only Client, and
// programs that use Options, reach it. Its domain is adit.test, its visitors
// have addresses of 192.0.2.0/24, and there are no public TCP ports.
func NewMemoryServer(t testing.TB, change ...func(*server.Options)) *Server {
	t.Helper()
	s := newServer(t.Fatalf, true, change)
	t.Cleanup(s.Close)
	return s
}

// Start is NewServer for examples and for TestMain, where there is no test. It
// panics if the server cannot be started. The caller closes it.
func Start(change ...func(*server.Options)) *Server {
	return newServer(func(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }, false, change)
}

func newServer(fatalf func(format string, args ...any), memory bool, change []func(*server.Options)) *Server {
	s := &Server{
		fatalf: fatalf,
		memory: memory,
		secret: auth.NewSecret(),
		change: change,
		addr:   "127.0.0.1:0",
		conns:  make(map[*conn]struct{}),
	}
	if !memory {
		s.ports = s.freePorts()
	}
	s.client = &http.Client{Transport: &http.Transport{DialContext: s.dialVisitor}, Timeout: patience}
	s.start()
	return s
}

// Close stops the server for good, and closes the idle conns of Client. Calls
// after the first do nothing.
func (s *Server) Close() {
	s.client.CloseIdleConnections()
	s.Stop()
}

// start starts the server, at its former address if it had one.
func (s *Server) start() {
	a, err := auth.NewAuthenticator(auth.Options{Secrets: []auth.Secret{s.secret}})
	if err != nil {
		s.fatalf("adittest: %v", err)
	}
	opts := server.Options{
		PathMode: true,
		Hold:     hold,
		Grace:    -1,
		Logger:   slog.New(slog.DiscardHandler),
	}
	if s.memory {
		opts.Domain = memoryDomain
	} else {
		opts.TCPPorts = []ingress.PortRange{s.ports}
		opts.UDPPorts = opts.TCPPorts
	}
	for _, f := range s.change {
		f(&opts)
	}
	opts.Listen = s.addr
	if s.memory {
		opts.Listen = ""
	}
	opts.Auth = a
	opts.Dialects = []dialect.Dialect{native.New(native.Options{Logger: opts.Logger})}
	srv, err := server.New(opts)
	if err != nil {
		s.fatalf("adittest: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- srv.Run(ctx) }()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.url = srv.URL()
	s.stop = func() error {
		cancel()
		return <-ran
	}
	if !s.memory {
		s.addr = srv.Addr().String()
		return
	}
	s.door = openDoor(srv)
	s.stop = func() error {
		cancel()
		err := <-ran
		s.door.close()
		return err
	}
}

// Stop stops the server, if it runs, and cuts off all visitors and programs.
func (s *Server) Stop() {
	s.restarting.Lock()
	defer s.restarting.Unlock()
	s.stopRunning()
}

func (s *Server) stopRunning() {
	s.mu.Lock()
	stop := s.stop
	s.stop = nil
	s.mu.Unlock()
	if stop == nil {
		return
	}
	if err := stop(); err != nil {
		s.fatalf("adittest: server: %v", err)
	}
}

// Restart stops the server, if it runs, and starts it at the same address. It
// then knows of nobody; programs that were connected come back by themselves.
func (s *Server) Restart() {
	s.restarting.Lock()
	defer s.restarting.Unlock()
	s.stopRunning()
	s.start()
}

// Cut breaks the connections of all programs that use Options. They dial again,
// and what goes through them goes on then.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Conn.Close()
	}
}

// URL returns the server's address, for adit.WithServer.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url
}

// TCPPorts returns the first and the last of the public TCP ports that the
// server gives out, for adit.WithTCP.
func (s *Server) TCPPorts() (first, last int) { return int(s.ports.First), int(s.ports.Last) }

// UDPPorts is TCPPorts for public UDP ports.
func (s *Server) UDPPorts() (first, last int) { return s.TCPPorts() }

// Secret returns the server's secret, for adit.WithToken.
func (s *Server) Secret() string { return s.secret.Reveal() }

// Token returns a token with these claims, signed with the secret. If they do
// not say when it expires, it is after an hour.
func (s *Server) Token(c auth.TokenClaims) string {
	if c.Expires.IsZero() {
		c.Expires = time.Now().Add(time.Hour)
	}
	token, err := auth.Mint(s.secret, c)
	if err != nil {
		s.fatalf("adittest: %v", err)
	}
	return token
}

// Options returns the options that lead a program to the server, with its
// secret.
func (s *Server) Options() adit.Option {
	return adit.Options(adit.WithServer(s.URL()), adit.WithToken(s.Secret()), adit.WithDialContext(s.dialServer))
}

// Listen is adit.Listen with the Options of the server, and opts. The test ends
// if it fails, and closes the Listener at its end.
func (s *Server) Listen(t testing.TB, opts ...adit.Option) *adit.Listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := adit.Listen(ctx, s.Options(), adit.Options(opts...))
	if err != nil {
		t.Fatalf("adittest: %v", err)
	}
	t.Cleanup(func() { shutdown(l) })
	return l
}

// Forward is adit.Forward, as Listen is adit.Listen.
func (s *Server) Forward(t testing.TB, upstream string, opts ...adit.Option) *adit.Tunnel {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tun, err := adit.Forward(ctx, upstream, s.Options(), adit.Options(opts...))
	if err != nil {
		t.Fatalf("adittest: %v", err)
	}
	t.Cleanup(func() { tun.Close() })
	return tun
}

// shutdown cuts off what is left.
func shutdown(l *adit.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.Shutdown(ctx)
}

// Client returns a client whose requests all go to the server, whatever their
// hostname.
func (s *Server) Client() *http.Client { return s.client }

func (s *Server) dialVisitor(ctx context.Context, network, _ string) (net.Conn, error) {
	s.mu.Lock()
	addr, door := s.addr, s.door
	s.mu.Unlock()
	if door != nil {
		return door.ln.Dial(ctx)
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// A conn is one that a program dialled.
type conn struct {
	net.Conn
	s *Server
}

func (s *Server) dialServer(ctx context.Context, network, _ string) (net.Conn, error) {
	nc, err := s.dialVisitor(ctx, network, "")
	if err != nil {
		return nil, err
	}
	c := &conn{nc, s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	return c, nil
}

// NetConn leads to the socket.
func (c *conn) NetConn() net.Conn { return c.Conn }

// Close closes the conn.
func (c *conn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// freePorts returns ports in a row that nobody uses right now. They lie below
// those that the system gives to those who dial, which come and go.
func (s *Server) freePorts() ingress.PortRange {
	for range 200 {
		first := 20000 + rand.IntN(12000)
		if allFree(first) {
			return ingress.PortRange{First: uint16(first), Last: uint16(first + manyPorts - 1)}
		}
	}
	s.fatalf("adittest: no %d free ports in a row", manyPorts)
	panic("unreachable")
}

func allFree(first int) bool {
	for port := first; port < first+manyPorts; port++ {
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return false
		}
		defer ln.Close()
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			return false
		}
		defer pc.Close()
	}
	return true
}
