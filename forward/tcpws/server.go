package tcpws

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"adit/internal/pacing"
	"adit/internal/wsframe"
)

// ServerOptions configures a Server. Target is required.
type ServerOptions struct {
	// Target is the host and port that is dialled for each WebSocket; its name
	// is looked up each time.
	Target string

	// DialContext dials it; nil is a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// MaxLinks bounds the WebSockets at a time; 0 means 65536. One more is
	// answered with 503.
	MaxLinks int

	// Log receives the lines that the original writes. If nil, they are lost.
	Log *log.Logger

	// Metrics counts, if not nil.
	Metrics *Metrics
}

// A Server takes WebSockets at any path, and is an http.Handler. Its methods are
// safe for concurrent use.
type Server struct {
	opts     ServerOptions
	links    links
	bodyTime time.Duration // for the body of a request that is refused
}

// NewServer returns a Server. The caller closes it.
func NewServer(opts ServerOptions) *Server {
	if opts.DialContext == nil {
		opts.DialContext = (&net.Dialer{Control: pacing.Control}).DialContext
	}
	if opts.MaxLinks <= 0 {
		opts.MaxLinks = 1 << 16
	}
	if opts.Log == nil {
		opts.Log = log.New(io.Discard, "", 0)
	}
	return &Server{opts: opts, links: newLinks(opts.MaxLinks), bodyTime: headTime}
}

// Serve serves l, with metrics at /metrics if there are any, until ctx ends or l
// fails, and closes l and all links.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("/", s)
	if s.opts.Metrics != nil {
		mux.Handle("/metrics", s.opts.Metrics.Handler())
	}
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headTime,
		ReadTimeout:       requestTime,
		WriteTimeout:      requestTime,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(acceptErrors{s.opts.Log}, "", 0),
	}
	stop := context.AfterFunc(ctx, func() {
		srv.Close()
		s.Close()
	})
	defer stop()
	err := srv.Serve(l)
	s.Close()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// acceptErrors logs of what package net/http has to say what is none of the
// visitors' faults.
type acceptErrors struct{ to *log.Logger }

func (e acceptErrors) Write(line []byte) (int, error) {
	if bytes.HasPrefix(line, []byte("http: Accept error")) {
		e.to.Printf("%s", line)
	}
	return len(line), nil
}

// Close ends all links and waits for them.
func (s *Server) Close() error { return s.links.close() }

// ServeHTTP takes one WebSocket. What is wrong with a request is answered as the
// original does it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m := s.opts.Metrics
	m.active(1)
	defer m.active(-1)
	key, status, err := checkUpgrade(r)
	if err != nil {
		s.refuse(w, r, status, err)
		return
	}
	done, ok := s.links.add()
	if !ok {
		s.refuse(w, r, http.StatusServiceUnavailable, fmt.Errorf("%d connections are open", s.opts.MaxLinks))
		return
	}
	defer done()

	has := parseFeatures(r.Header.Values(headerFeatures)).and(features{ends: true, zeroMask: true})
	var target net.Conn
	if has.ends {
		// One of our own tells its caller. To an original an answer other than
		// 101 is nothing that it knows, and while it waits for one it serves
		// nobody else: it gets that before the target is asked.
		var err error
		if target, err = s.dial(r.Context(), r.RemoteAddr, dialTime); err != nil {
			http.Error(w, "the target is not reached", http.StatusBadGateway)
			return
		}
	}
	conn, early, err := upgrade(w, key, has)
	if err != nil {
		m.failed("upgrade")
		s.opts.Log.Printf("%s - Error while upgrading: %v", r.RemoteAddr, err)
		if target != nil {
			abort(target)
		}
		return
	}
	m.connected("http")
	s.opts.Log.Printf("%s - Client connected", r.RemoteAddr)
	if target == nil {
		ctx, cancel := s.links.untilClosed()
		target, err = s.dial(ctx, r.RemoteAddr, patientDialTime)
		cancel()
		if err != nil {
			conn.Close()
			return
		}
	}
	m.connected("tcp")
	s.opts.Log.Printf("%s - Connected to TCP: %s", r.RemoteAddr, s.opts.Target)
	l := newLink(conn, target)
	l.early, l.features = early, has
	release := s.links.hold(l)
	defer release()
	err = l.run()
	m.moved(l.sent.Load(), l.received.Load())
	logEnd(s.opts.Log, r.RemoteAddr, err)
	s.opts.Log.Printf("%s - Client disconnected", r.RemoteAddr)
}

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	s.opts.Metrics.failed("upgrade")
	s.opts.Log.Printf("%s - Error while upgrading: %v", r.RemoteAddr, err)
	// Of a body the server of package http reads some, to use the conn again.
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.bodyTime))
	w.Header().Set("Sec-Websocket-Version", "13")
	http.Error(w, http.StatusText(status), status)
}

// dial dials the target for peer.
func (s *Server) dial(ctx context.Context, peer string, limit time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := s.opts.DialContext(ctx, "tcp", s.opts.Target)
	if err != nil {
		s.opts.Metrics.failed("dial_tcp")
		s.opts.Log.Printf("%s - Error while dialing %s: %v", peer, s.opts.Target, err)
	}
	return c, err
}

// checkUpgrade returns the key of a handshake, or the status that refuses it and
// why.
func checkUpgrade(r *http.Request) (key string, status int, err error) {
	bad := func(why string) (string, int, error) { return "", http.StatusBadRequest, errors.New(why) }
	switch {
	case !hasToken(r.Header["Connection"], "upgrade") || !hasToken(r.Header["Upgrade"], "websocket"):
		return bad("the request is for no websocket")
	case r.Method != http.MethodGet:
		return "", http.StatusMethodNotAllowed, errors.New("the method is not GET")
	case !hasToken(r.Header["Sec-Websocket-Version"], "13"):
		return bad("the version is not 13")
	}
	key = r.Header.Get("Sec-Websocket-Key")
	if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != 16 {
		return bad("the key is not 16 bytes in base64")
	}
	if r.ContentLength != 0 {
		return bad("it comes with a body") // which is not to be taken for frames
	}
	return key, 0, nil
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for word := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(word), token) {
				return true
			}
		}
	}
	return false
}

// upgrade answers the handshake and takes the conn over.
func upgrade(w http.ResponseWriter, key string, has features) (conn net.Conn, early []byte, err error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be upgraded", http.StatusInternalServerError)
		return nil, nil, err
	}
	if n := rw.Reader.Buffered(); n > 0 {
		early, _ = rw.Reader.Peek(n)
		early = append([]byte(nil), early...)
	}
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + wsframe.Accept(key) + "\r\n"
	if list := has.String(); list != "" {
		head += headerFeatures + ": " + list + "\r\n"
	}
	conn.SetDeadline(time.Now().Add(headTime))
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		conn.Close()
		return nil, nil, err
	}
	conn.SetDeadline(time.Time{})
	return conn, early, nil
}

// links are the links that are open, so that they can be ended and waited for.
type links struct {
	mu     *sync.Mutex // guards the fields below
	max    int
	count  int
	open   map[*link]struct{}
	closed bool
	ends   chan struct{} // closed with closed
	wg     *sync.WaitGroup
}

func newLinks(limit int) links {
	return links{mu: new(sync.Mutex), max: limit, open: make(map[*link]struct{}), ends: make(chan struct{}), wg: new(sync.WaitGroup)}
}

// add counts one link; done is called at its end. It reports false if there are
// too many, or no more are taken.
func (ls *links) add() (done func(), ok bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed || ls.count >= ls.max {
		return nil, false
	}
	ls.count++
	ls.wg.Add(1)
	return func() {
		ls.mu.Lock()
		ls.count--
		ls.mu.Unlock()
		ls.wg.Done()
	}, true
}

// hold lets close end the link, until release is called.
func (ls *links) hold(l *link) (release func()) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.open[l] = struct{}{}
	if ls.closed {
		l.fail(errClosed)
	}
	return func() {
		ls.mu.Lock()
		defer ls.mu.Unlock()
		delete(ls.open, l)
	}
}

// untilClosed returns a context that ends with cancel, or when the links are
// closed.
func (ls *links) untilClosed() (ctx context.Context, cancel func()) {
	ctx, end := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-ls.ends:
			end()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		end()
		wg.Wait()
	}
}

var errClosed = errors.New("the program ends")

func (ls *links) close() error {
	ls.mu.Lock()
	if !ls.closed {
		ls.closed = true
		close(ls.ends)
	}
	for l := range ls.open {
		l.fail(errClosed)
	}
	ls.mu.Unlock()
	ls.wg.Wait()
	return nil
}
