package requests

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// maxConns is how many conns a Server has at a time.
const maxConns = 1 << 16

// Options configures a Server. The zero value is ready to use.
type Options struct {
	// Memory bounds the bytes that all conns keep together; 0 means 256 MiB.
	// When it is used up each conn may keep 64 KiB each way.
	Memory int64
}

// A Server has the server's ends of conns. Its methods are safe for concurrent
// use. Conns that nobody closes end by themselves when their dialler is gone.
type Server struct {
	memory int64
	used   atomic.Int64

	mu    sync.Mutex
	conns map[id]*serverConn
}

// NewServer returns a Server without conns.
func NewServer(opts Options) *Server {
	if opts.Memory == 0 {
		opts.Memory = 256 << 20
	}
	return &Server{memory: opts.Memory, conns: make(map[id]*serverConn)}
}

// Len returns the number of conns, those included that have been closed a
// moment ago.
func (s *Server) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Used returns the bytes of memory that all conns keep.
func (s *Server) Used() int64 { return s.used.Load() }

// OpensConn reports whether r asks for a conn.
func OpensConn(r *http.Request) bool {
	return r.Method == http.MethodPost && Kind(r.Header.Get(Header)).Valid()
}

// Open answers a request for which OpensConn is true, and returns the conn that
// it opens; the caller has decided that whoever asks may have one, and closes
// it. If it fails r has been answered.
func (s *Server) Open(w http.ResponseWriter, r *http.Request) (net.Conn, Kind, error) {
	noStore(w.Header())
	kind := Kind(r.Header.Get(Header))
	if len(r.Header["Origin"]) > 0 {
		refuse(w, http.StatusForbidden, codeBad) // a page in a browser
		return nil, kind, errors.New("requests: a page asks for a conn")
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	theirs, err := io.ReadAll(io.LimitReader(r.Body, keySize+1))
	if err != nil {
		refuse(w, http.StatusBadRequest, codeBad)
		return nil, kind, fmt.Errorf("requests: read the opening request: %w", err)
	}
	c, mine, err := s.agree(theirs)
	if err != nil {
		refuse(w, http.StatusBadRequest, codeBad)
		return nil, kind, err
	}
	c.kind = kind
	c.init(addrOf(""), addrOf(r.RemoteAddr))
	c.stir = c.serveLocked
	c.full = c.fullLocked
	c.changed = make(chan struct{})
	c.polls = make(map[uint64]*poll)
	c.seen = time.Now()
	s.mu.Lock()
	full := len(s.conns) >= maxConns
	if !full {
		s.conns[c.id] = c
	}
	s.mu.Unlock()
	if full {
		refuse(w, http.StatusServiceUnavailable, codeBusy)
		return nil, kind, errors.New("requests: too many conns")
	}
	c.mu.Lock()
	c.timer = time.AfterFunc(idleTimeout, c.idle)
	c.mu.Unlock()

	b := append([]byte(answerMagic), c.id[:]...)
	b = append(b, mine...)
	f := frame{number: c.nextFrame()}
	b = f.seal(b, c.keys.down, 0)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	if _, err := w.Write(b); err != nil {
		c.Close()
		return nil, kind, fmt.Errorf("requests: answer the opening request: %w", err)
	}
	return c, kind, nil
}

// agree makes a conn with keys.
func (s *Server) agree(dialler []byte) (c *serverConn, mine []byte, err error) {
	theirs, err := ecdh.X25519().NewPublicKey(dialler)
	if err != nil {
		return nil, nil, fmt.Errorf("requests: the opening request has %d bytes, and no key", len(dialler))
	}
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	mine = key.PublicKey().Bytes()
	c = &serverConn{server: s}
	rand.Read(c.id[:])
	c.keys, err = agree(key, theirs, c.id, dialler, mine)
	return c, mine, err
}

// addrOf is the address of a request's RemoteAddr.
func addrOf(s string) net.Addr {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return &net.TCPAddr{}
	}
	return net.TCPAddrFromAddrPort(a)
}

// refuse answers a request without telling more than it must.
func refuse(w http.ResponseWriter, status int, code string) {
	noStore(w.Header())
	w.Header().Set(headerError, code)
	if code == codeBusy {
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, code, status)
}

// ServeHTTP answers a request that belongs to a conn. Whoever does not have the
// conn's keys gets the same answer as for one that does not exist.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, ok := parseHead(r.Header.Get(Header))
	if !ok {
		refuse(w, http.StatusBadRequest, codeBad)
		return
	}
	s.mu.Lock()
	c := s.conns[h.id]
	s.mu.Unlock()
	if c == nil || !h.proven(c.keys.requests) {
		refuse(w, http.StatusNotFound, codeUnknown)
		return
	}
	if !c.enter() {
		refuse(w, http.StatusServiceUnavailable, codeBusy)
		return
	}
	defer c.leave()
	noStore(w.Header())
	switch h.op {
	case opUp:
		c.serveUp(w, r, &h.head)
	case opPoll:
		c.servePoll(w, r, &h.head)
	case opStream:
		c.serveStream(w, r, &h.head)
	case opEnd:
		c.serveEnd(w, &h.head)
	}
}

func (s *Server) remove(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c.id)
}
