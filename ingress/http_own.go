package ingress

import (
	"bufio"
	"bytes"
	"context"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"

	"adit/internal/replay"
)

// askOwn asks Own whether the request is for the server itself.
func (v *visitor) askOwn(head []byte) http.Handler {
	if v.h.opts.Own == nil {
		return nil
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return nil // what we accept, net/http does; only a bad Trailer field gets here
	}
	r.Body = http.NoBody
	r.RemoteAddr = v.conn.RemoteAddr().String()
	r.TLS = v.tls
	return v.h.opts.Own(r.WithContext(v.ctx))
}

// handOff gives the conn to the server of package net/http, for good. The
// request in progress goes to handler.
func (v *visitor) handOff(handler http.Handler) end {
	v.stopWatch()
	v.use(nil)
	if v.gone.Load() {
		return v.fail(errVisitorLeft)
	}
	v.setReadDeadline(0, 0)
	hc := &handedConn{replay.New(v.conn, bytes.Clone(v.ex.in[v.ex.r:v.ex.w])), handler}
	v.releaseExchange()
	if !v.h.inner.give(hc) {
		v.conn.Close()
		v.h.uncount()
	}
	return gaveConn
}

// Limits of HTTP/2. A stream that nobody reads must not keep the others of its
// conn waiting.
const (
	maxH2Streams = 250     // at a time on one conn
	h2Window     = 1 << 20 // bytes of one request that wait to be read
	h2ConnWindow = 4<<20 - 1
	h2Frame      = 64 << 10 // bytes of the largest that is read, into memory that the conn keeps
)

// An innerServer serves conns with package net/http: those for the server
// itself, those of HTTP/2, and those whose requests the relay does not carry.
type innerServer struct {
	h     *HTTP
	srv   *http.Server
	conns chan net.Conn
	done  chan struct{} // closed when no more conns are taken

	parting context.Context // of requests for the server itself; ends with shutdown
	part    context.CancelFunc

	mu      sync.Mutex // guards the fields below
	started bool
	over    bool
}

func (s *innerServer) init(h *HTTP) {
	s.h = h
	s.conns = make(chan net.Conn)
	s.done = make(chan struct{})
	s.parting, s.part = context.WithCancel(context.Background())
	s.srv = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: h.opts.HeadTimeout,
		IdleTimeout:       h.opts.IdleTimeout,
		MaxHeaderBytes:    h.opts.MaxHeadBytes,
		ErrorLog:          log.New(logWriter{h}, "", 0),
		Protocols:         new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxH2Streams,
			MaxReceiveBufferPerStream:     h2Window,
			MaxReceiveBufferPerConnection: h2ConnWindow,
			MaxReadFrameSize:              h2Frame,
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, handedKey{}, c)
		},
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				h.uncount()
			}
		},
	}
	s.srv.Protocols.SetHTTP1(true)
	s.srv.Protocols.SetHTTP2(true)
	s.srv.Protocols.SetUnencryptedHTTP2(h.opts.H2C)
}

// A logWriter takes what net/http has to say, which is about visitors' faults
// unless a handler panicked.
type logWriter struct{ h *HTTP }

func (w logWriter) Write(p []byte) (int, error) {
	level := slog.LevelDebug
	if strings.Contains(string(p), "panic") {
		level = slog.LevelError
	}
	w.h.opts.Logger.Log(context.Background(), level, "net/http server", "err", strings.TrimSpace(string(p)))
	return len(p), nil
}

type handedKey struct{}

// give takes a *handedConn, or a *tls.Conn on which HTTP/2 was agreed, which
// counts among the visitors. It reports false if the server is closed; the conn
// then stays the caller's.
func (s *innerServer) give(c net.Conn) bool {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return false
	}
	if !s.started {
		s.started = true
		s.h.wg.Go(func() { s.srv.Serve((*innerListener)(s)) })
	}
	s.mu.Unlock()
	select {
	case s.conns <- c:
		return true
	case <-s.done:
		return false
	}
}

func (s *innerServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		close(s.done)
	}
}

func (s *innerServer) shutdown(ctx context.Context) error {
	s.stop()
	s.part()
	return s.srv.Shutdown(ctx)
}

func (s *innerServer) close() {
	s.stop()
	s.part()
	s.srv.Close()
}

// An innerListener is where the conns come from.
type innerListener innerServer

func (l *innerListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *innerListener) Close() error {
	(*innerServer)(l).stop()
	return nil
}

func (l *innerListener) Addr() net.Addr { return ownAddr{} }

type ownAddr struct{}

func (ownAddr) Network() string { return "handed" }
func (ownAddr) String() string  { return "handed" }

// serve is the handler of all requests that package net/http parses.
func (s *innerServer) serve(w http.ResponseWriter, r *http.Request) {
	if s.h.parting() && r.Header.Get("Upgrade") == "" && !strings.HasPrefix(r.URL.Path, ownPath) {
		w.Header().Set("Connection", "close") // of HTTP/2: GOAWAY
	}
	var handler http.Handler
	if hc, ok := r.Context().Value(handedKey{}).(*handedConn); ok {
		if r.TLS == nil {
			r.TLS = tlsState(hc.NetConn())
		}
		handler, hc.first = hc.first, nil
		w = &handedWriter{w, hc}
	}
	if handler == nil && s.upgrades(w, r) {
		return
	}
	own := strings.HasPrefix(r.URL.Path, ownPath)
	ask := own || r.Header.Get("Upgrade") != ""
	if rules := s.h.opts.Rules; rules != nil {
		own = false
		ask = rules.isOwn(s.h.opts.Domain, []byte(r.Host), targetOf(r), func(field string) bool { return r.Header.Get(field) != "" })
	}
	if handler == nil && s.h.opts.Own != nil && ask {
		handler = s.h.opts.Own(r)
	}
	switch {
	case handler != nil:
		// Agents may need further requests for as long as visitors are there,
		// and one that waits must not keep the server from ending.
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(s.parting, cancel)()
		r = r.WithContext(ctx)
	case own:
		s.h.writeProblem(w, r, probNotFound, r.Host)
		return
	default:
		handler = &s.h.fallback
	}
	handler.ServeHTTP(w, r)
}

// A handedConn is a conn that the relay has read a request from.
type handedConn struct {
	*replay.Conn
	first http.Handler // of the first request; nil when it has come
}

// A handedWriter hijacks the conn itself, with nothing of ours around it.
type handedWriter struct {
	http.ResponseWriter
	hc *handedConn
}

// Unwrap is for http.ResponseController.
func (w *handedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush sends what is buffered.
func (w *handedWriter) Flush() { http.NewResponseController(w.ResponseWriter).Flush() }

// Hijack lets the caller take over the conn.
func (w *handedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if len(w.hc.Head()) > 0 {
		return c, rw, nil // bytes behind a long head are still to be read
	}
	return w.hc.NetConn(), rw, nil
}
