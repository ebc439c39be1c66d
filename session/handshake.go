package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// underDeadline runs f, which reads and writes conn, for the length of a
// handshake or until ctx ends, whichever is sooner.
func underDeadline(ctx context.Context, conn net.Conn, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(expired)
		conn.SetDeadline(time.Unix(1, 0)) // long past: unblocks f
	})
	err := f()
	if !stop() {
		<-expired
		return context.Cause(ctx)
	}
	return err
}

func (s *Session) offer() *hello {
	return &hello{
		minVersion: minVersion, maxVersion: maxVersion,
		window:       uint64(s.opts.Window),
		streams:      uint64(s.opts.MaxStreams),
		resumeWindow: s.opts.ResumeWindow,
		software:     s.opts.Software,
	}
}

// Dial starts a session on conn, which this side has dialled. The session owns
// conn afterwards, also if it fails. ctx bounds the handshake, as does a limit
// of 10 s. opts may be nil. The error is a *RejectedError if the other side
// refuses.
func Dial(ctx context.Context, conn net.Conn, opts *Options) (*Session, error) {
	s := newSession(opts.withDefaults(), true)
	w, err := s.greet(ctx, conn, s.offer())
	if err == nil && (w.session == sessionID{} || w.secret == secretKey{}) {
		err = errors.New("WELCOME without session or secret")
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start session: %w", err)
	}
	s.id, s.secret = w.session, w.secret
	s.agree(w)
	s.attaching.Lock()
	defer s.attaching.Unlock()
	if err := s.attach(conn, 0); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// greet sends HELLO and returns what WELCOME says.
func (s *Session) greet(ctx context.Context, conn net.Conn, h *hello) (w *hello, err error) {
	err = underDeadline(ctx, conn, func() error {
		sent := sinceStart()
		if _, err := conn.Write(h.record(recHello)); err != nil {
			return err
		}
		kind, body, err := readHandshake(conn)
		if err != nil {
			return err
		}
		switch kind {
		case recWelcome:
		case recReject:
			return parseReject(body)
		default:
			return fmt.Errorf("answer to HELLO is a record of kind %#x", byte(kind))
		}
		if w, err = parseWelcome(body); err != nil {
			return fmt.Errorf("WELCOME: %w", err)
		}
		if w.maxVersion < h.minVersion || w.maxVersion > h.maxVersion {
			return fmt.Errorf("WELCOME with version %d, offered %d to %d", w.maxVersion, h.minVersion, h.maxVersion)
		}
		s.mu.Lock()
		s.measuredLocked(sinceStart() - sent)
		s.mu.Unlock()
		return nil
	})
	return w, err
}

// Resume continues the session on conn, which this side has dialled, and drops
// the present carrier if there still is one. The session owns conn afterwards,
// also if it fails. ctx bounds the handshake, as does a limit of 10 s.
//
// If the other side does not know the session any more the error is a
// *RejectedError with Gone, and the session has ended with ErrLost. After other errors Resume may be tried
// again until the resume window is over.
func (s *Session) Resume(ctx context.Context, conn net.Conn) error {
	if err := s.resume(ctx, conn); err != nil {
		conn.Close()
		if re := (*RejectedError)(nil); errors.As(err, &re) && re.Gone() {
			s.end(fmt.Errorf("%w: %w", ErrLost, err))
		}
		return fmt.Errorf("resume session: %w", err)
	}
	return nil
}

var errReplaced = errors.New("session: carrier replaced")

func (s *Session) resume(ctx context.Context, conn net.Conn) error {
	if !s.dialler {
		return errors.New("only the side that dialled can resume")
	}
	s.attaching.Lock()
	defer s.attaching.Unlock()
	s.detach(errReplaced)
	if err := s.Err(); err != nil {
		return err
	}
	s.attempt++
	h := s.offer()
	h.resume, h.session, h.attempt, h.received = true, s.id, s.attempt, s.in.off.Load()
	h.proof = sideProof(&s.secret, "dialler", s.id, h.attempt, h.received)
	w, err := s.greet(ctx, conn, h)
	if err != nil {
		return err
	}
	p := sideProof(&s.secret, "listener", s.id, h.attempt, w.received)
	if w.session != s.id || !p.equal(&w.proof) {
		return errors.New("the other side does not prove that it has the session")
	}
	return s.attach(conn, w.received)
}

// An Acceptor takes in the carriers that the other side dials, and keeps the
// sessions that they can resume. Its methods are safe for concurrent use.
type Acceptor struct {
	opts *Options

	mu       sync.Mutex
	sessions map[sessionID]*Session
	started  uint64
	ended    Stats // of the sessions that have ended, added up
}

// NewAcceptor returns an Acceptor whose sessions have opts, which may be nil.
func NewAcceptor(opts *Options) *Acceptor {
	return &Acceptor{opts: opts.withDefaults(), sessions: make(map[sessionID]*Session)}
}

// Len returns the number of sessions, those between two carriers included.
func (a *Acceptor) Len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.sessions)
}

// Accept runs the handshake on conn and returns its session: a new one, which
// the caller closes, or one that was returned before and has been resumed. The
// session owns conn afterwards; if Accept fails conn has been closed. ctx bounds
// the handshake, as does a limit of 10 s.
//
// value is what Value of a new session returns. may, if not nil, is asked before a session is resumed whether whoever dialled
// conn may have it; if not the answer is the same as for an unknown session.
func (a *Acceptor) Accept(ctx context.Context, conn net.Conn, value any, may func(*Session) bool) (s *Session, resumed bool, err error) {
	var h *hello
	err = underDeadline(ctx, conn, func() (err error) {
		h, err = a.readHello(conn)
		return err
	})
	if err == nil && h.resume {
		s, err = a.resume(ctx, conn, h, may)
		resumed = true
	} else if err == nil {
		s, err = a.start(ctx, conn, h, value)
	}
	if err != nil {
		if re := (*RejectedError)(nil); errors.As(err, &re) {
			underDeadline(ctx, conn, func() error {
				_, err := conn.Write(re.record())
				return err
			})
		}
		conn.Close()
		return nil, false, fmt.Errorf("accept session: %w", err)
	}
	return s, resumed, nil
}

func (a *Acceptor) readHello(conn net.Conn) (*hello, error) {
	kind, body, err := readHandshake(conn)
	if err != nil {
		return nil, err
	}
	if kind != recHello {
		return nil, &RejectedError{Code: rejectMalformed, Reason: fmt.Sprintf("the first record has kind %#x, not HELLO", byte(kind))}
	}
	h, err := parseHello(body)
	if err != nil {
		return nil, &RejectedError{Code: rejectMalformed, Reason: err.Error()}
	}
	if h.minVersion > maxVersion || h.maxVersion < minVersion {
		return nil, &RejectedError{Code: rejectVersion, Reason: fmt.Sprintf("versions %d to %d are not spoken here", h.minVersion, h.maxVersion)}
	}
	return h, nil
}

func (a *Acceptor) start(ctx context.Context, conn net.Conn, h *hello, value any) (*Session, error) {
	s := newSession(a.opts, false)
	s.value = value
	rand.Read(s.id[:])
	rand.Read(s.secret[:])
	s.agree(h)
	s.onEnd = func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.sessions, s.id)
		a.ended.add(s.Stats())
	}
	a.mu.Lock()
	a.sessions[s.id] = s
	a.started++
	a.mu.Unlock()

	s.attaching.Lock()
	defer s.attaching.Unlock()
	w := s.offer()
	w.session, w.secret = s.id, s.secret
	err := s.welcome(ctx, conn, w, 0)
	if err != nil {
		s.end(err)
		return nil, err
	}
	return s, nil
}

// welcome sends w and starts the session on conn.
func (s *Session) welcome(ctx context.Context, conn net.Conn, w *hello, received uint64) error {
	err := underDeadline(ctx, conn, func() error {
		_, err := conn.Write(w.record(recWelcome))
		return err
	})
	if err != nil {
		return err
	}
	return s.attach(conn, received)
}

var errGone = &RejectedError{Code: rejectGone, Reason: "no such session"}

func (a *Acceptor) resume(ctx context.Context, conn net.Conn, h *hello, may func(*Session) bool) (*Session, error) {
	a.mu.Lock()
	s := a.sessions[h.session]
	a.mu.Unlock()
	if s == nil {
		return nil, errGone
	}
	want := sideProof(&s.secret, "dialler", h.session, h.attempt, h.received)
	if !want.equal(&h.proof) || may != nil && !may(s) {
		return nil, errGone
	}
	s.attaching.Lock()
	defer s.attaching.Unlock()
	if h.attempt <= s.attempt {
		return nil, errGone
	}
	s.attempt = h.attempt
	s.detach(errReplaced)
	if s.Err() != nil {
		return nil, errGone
	}
	if err := s.canRewind(h.received); err != nil {
		return nil, err
	}
	w := s.offer()
	w.resume, w.session, w.received = true, s.id, s.in.off.Load()
	w.proof = sideProof(&s.secret, "listener", s.id, h.attempt, w.received)
	return s, s.welcome(ctx, conn, w, h.received)
}
