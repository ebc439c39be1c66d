package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/tunnel"
)

// own returns the handler of requests for the server itself.
func (s *Server) own(r *http.Request) http.Handler {
	if h := s.health(r); h != nil {
		return h
	}
	if h := s.examined(r); h != nil {
		return h
	}
	if s.opts.Own != nil {
		if h := s.opts.Own(r); h != nil {
			return h
		}
	}
	for _, d := range s.opts.Dialects {
		if e, ok := d.(dialect.Extended); ok {
			if h := e.Handler(r); h != nil {
				return h
			}
		}
		if d.Match(r) {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.accept(d, w, r) })
		}
	}
	return nil
}

// accept takes in an agent, or gives a session of one a new carrier.
func (s *Server) accept(d dialect.Dialect, w http.ResponseWriter, r *http.Request) {
	refused := s.enter()
	hw := &handshakeWriter{ResponseWriter: w, server: s}
	done := func() {
		hw.forget()
		if refused == nil {
			s.leave()
		}
	}
	var id *auth.Identity
	t, err := d.Accept(hw, r, func(ctx context.Context, claim auth.Claim) (*auth.Identity, error) {
		if refused != nil {
			return nil, refused
		}
		var err error
		id, err = s.authenticatorOf(d).Authenticate(ctx, claim)
		return id, err
	})
	later, ok := errors.AsType[*dialect.Continued](err)
	if !ok {
		defer done()
		s.accepted(d, r, t, id, err)
		return
	}
	hw.watch(later.Conn)
	go func() { // until leave, Run waits for it
		defer done()
		t, err := later.Finish()
		s.accepted(d, r, t, id, err)
	}()
}

// accepted goes on with what a dialect's Accept returned.
func (s *Server) accepted(d dialect.Dialect, r *http.Request, t tunnel.Tunnel, id *auth.Identity, err error) {
	if err != nil {
		s.handshakesDone.count(d.Name(), handshakeResult(err), resultFailed)
	}
	switch {
	case errors.Is(err, dialect.ErrResumed):
		if b := s.binderOf(t); b != nil {
			b.adopt(id)
		}
		return
	case err != nil:
		s.log.Warn("agent not admitted", "dialect", d.Name(), "remote", r.RemoteAddr, "err", err)
		return
	}
	b := &binder{
		server:   s,
		session:  newSessionID(),
		tunnel:   t,
		dialect:  d.Name(),
		remote:   r.RemoteAddr,
		host:     strings.Clone(r.Host[:min(len(r.Host), maxHost+1)]),
		secure:   r.TLS != nil,
		began:    time.Now(),
		holder:   id.Subject,
		identity: id,
	}
	_, b.foreign = d.(dialect.Authenticator)
	if reason := s.add(b); reason != "" {
		s.handshakesDone.count(d.Name(), resultTurnedAway, resultFailed)
		b.info("agent turned away", "reason", reason)
		end(t, tunnel.EndShutdown, reason)
		return
	}
	s.handshakesDone.count(d.Name(), resultOK, resultFailed)
	attrs := []any{"subject", id.Subject, "credential", string(id.Kind), "carrier", carrierOf(t)}
	if id.Token != "" {
		attrs = append(attrs, "token", id.Token)
	}
	b.info("agent connected", attrs...)
	b.register()
	b.watch()
	b.recheck() // what changed before the server knew of it
}

// authenticatorOf returns who decides on the claims of a dialect's agents.
func (s *Server) authenticatorOf(d dialect.Dialect) dialect.Authenticator {
	if a, ok := d.(dialect.Authenticator); ok {
		return a
	}
	return s.opts.Auth
}

// enter begins a handshake. Unless it returns an error, the caller calls leave.
func (s *Server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return &auth.Error{Code: auth.Busy, Reason: "the server is shutting down"}
	case s.handshaking >= maxHandshakes:
		return &auth.Error{Code: auth.Busy, Reason: "too many agents connect at once"}
	}
	s.handshaking++
	s.agents.Add(1)
	return nil
}

func (s *Server) leave() {
	s.mu.Lock()
	s.handshaking--
	s.mu.Unlock()
	s.agents.Done()
}

// add makes b's tunnel one of the server's tunnels, whose end calls remove, or says why
// it cannot be.
func (s *Server) add(b *binder) (reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining || s.closing:
		return "the server is shutting down"
	case len(s.tunnels) >= maxAgents:
		return "the server has as many agents as it takes"
	case s.isFullLocked(b):
		return fmt.Sprintf("%q has %d agents here, which is as many as it may have", b.holder, s.opts.MaxAgentsPerSubject)
	}
	s.holders[b.holder]++
	s.tunnels[b.tunnel] = b
	s.memory.stir()
	s.agents.Add(1)
	return ""
}

// remove takes out what add has put in. The caller has agents.Done to call when
// nothing is left to do for it.
func (s *Server) remove(t tunnel.Tunnel) {
	s.mu.Lock()
	b := s.tunnels[t]
	delete(s.tunnels, t)
	if s.holders[b.holder]--; s.holders[b.holder] == 0 {
		delete(s.holders, b.holder)
	}
	s.mu.Unlock()
}

// isFullLocked reports whether the holder of b's credential has as many agents
// as it may have. One that b is about to replace does not count.
func (s *Server) isFullLocked(b *binder) bool {
	limit := s.opts.MaxAgentsPerSubject
	if limit <= 0 || b.holder == auth.SecretSubject || b.foreign || s.holders[b.holder] < limit {
		return false
	}
	type agent struct {
		id       tunnel.ID
		instance string
	}
	instance := instanceOf(b.tunnel)
	alone, several := 0, make(map[agent]bool) // an agent's sessions count as one
	for t, other := range s.tunnels {
		switch i := instanceOf(t); {
		case other.holder != b.holder:
		case i == "":
			alone++
		case i == instance && t.ID() == b.tunnel.ID():
			return false
		default:
			several[agent{t.ID(), i}] = true
		}
	}
	return alone+len(several) >= limit
}

// carrierOf returns the name of the carrier that a tunnel has or had last; it is
// empty if its dialect has only one.
func carrierOf(t tunnel.Tunnel) string {
	if c, ok := t.(interface{ Carrier() string }); ok {
		return c.Carrier()
	}
	return ""
}

func instanceOf(t tunnel.Tunnel) string {
	if i, ok := t.(tunnel.Instancer); ok {
		return i.Instance()
	}
	return ""
}

// binderOf returns the binder of a tunnel, or nil if it has ended.
func (s *Server) binderOf(t tunnel.Tunnel) *binder {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tunnels[t]
}

// unlessClosing runs f, and lets Run wait for it, while the server is not
// about to end all tunnels anyway.
func (s *Server) unlessClosing(f func()) {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return
	}
	s.agents.Add(1)
	s.mu.Unlock()
	defer s.agents.Done()
	f()
}

// A handshakeWriter lets the server close a conn that a handshake has taken
// over, so that its end need not wait for the far side.
type handshakeWriter struct {
	http.ResponseWriter
	server *Server
	conn   net.Conn // after Hijack
}

// Unwrap is for http.ResponseController.
func (w *handshakeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack lets the caller take over the conn.
func (w *handshakeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.watch(conn)
	return conn, rw, nil
}

// watch lets the server close conn until forget.
func (w *handshakeWriter) watch(conn net.Conn) {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	w.server.handshakes[conn] = struct{}{}
	w.conn = conn
}

// forget ends that: the conn is the session's now, or closed.
func (w *handshakeWriter) forget() {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	delete(w.server.handshakes, w.conn)
}
