package forest

import (
	"bufio"
	"net"
	"sync"
)

// socketBuffer is what a socket with a session reads at a time, and writes at
// most at a time, in bytes.
const socketBuffer = 64 << 10

// A socket is the TCP connection below TLS. TLS reads and writes a record of at
// most 16 KiB at a time; a socket makes one call to the system of several, from
// the time that a session has it.
type socket struct {
	net.Conn

	in *bufio.Reader // nil before bulk; used by one reader at a time

	mu     sync.Mutex // guards the fields below
	corked bool
	out    []byte
}

// bulk buffers what is read from now on. Nobody may read meanwhile.
func (s *socket) bulk() { s.in = bufio.NewReaderSize(s.Conn, socketBuffer) }

func (s *socket) Read(p []byte) (int, error) {
	if s.in == nil {
		return s.Conn.Read(p)
	}
	return s.in.Read(p)
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.corked {
		return s.Conn.Write(p)
	}
	if len(s.out)+len(p) > socketBuffer+socketBuffer/2 {
		if err := s.flushLocked(); err != nil {
			return 0, err
		}
	}
	s.out = append(s.out, p...)
	return len(p), nil
}

// cork keeps what is written until uncork.
func (s *socket) cork() {
	s.mu.Lock()
	s.corked = true
	s.mu.Unlock()
}

func (s *socket) uncork() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corked = false
	return s.flushLocked()
}

func (s *socket) flushLocked() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.Conn.Write(s.out)
	s.out = s.out[:0]
	return err
}

// A socketListener makes sockets of what it accepts.
type socketListener struct{ net.Listener }

func (l socketListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &socket{Conn: c}, nil
}

// NetConn returns the connection below.
func (s *socket) NetConn() net.Conn { return s.Conn }

// plainConn returns the connection below TLS, and below all others that say what
// is below them.
func plainConn(c net.Conn) net.Conn {
	for {
		over, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = over.NetConn()
	}
}
