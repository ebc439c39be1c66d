package adit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"adit/agent"
	"adit/dialect"
	"adit/tunnel"
)

const (
	startTimeout = 30 * time.Second // of Listen and Forward, if ctx has no deadline
	tokenTimeout = 10 * time.Second // of the function that gives the token
	closeWait    = time.Second      // of Close, for the server to be told
	grace        = 10 * time.Minute // for conns that are open when a link is closed
)

// errStart is why a start ends that nothing else bounds.
var errStart = fmt.Errorf("not connected after %v: %w", startTimeout, context.DeadlineExceeded)

// A link is what a Listener and a Tunnel have in common: an agent with one
// tunnel.
type link struct {
	opts   *options
	ctx    context.Context // ends when the link is to
	cancel context.CancelFunc
	asking context.Context // ends later, with the link's conns; for the token's function
	hush   context.CancelFunc
	cut    chan struct{} // closed to end conns for which the link still waits
	told   chan struct{} // closed when the server has been told that the link ends, or need not be
	gone   chan struct{} // closed when nothing of the agent is left
	done   chan struct{} // closed when all events have been told, too
	first  chan error    // receives nil when the link is up, or why it will not be
	events *eventQueue

	cutOnce, toldOnce sync.Once

	mu     sync.Mutex // guards the fields below
	status Event
	urls   []string // of the last StateConnected
	failed error    // of the last attempt, before the first StateConnected
	err    error    // why the link ended by itself
}

// start returns a link that is up. ctx bounds that. ended is called when the
// link ends, in any case.
func start(ctx context.Context, o *options, up *agent.Upstream, ended func() error) (*link, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, startTimeout, errStart)
		defer cancel()
	}
	l := &link{
		opts:   o,
		cut:    make(chan struct{}),
		told:   make(chan struct{}),
		gone:   make(chan struct{}),
		done:   make(chan struct{}),
		first:  make(chan error, 1),
		events: newEventQueue(o.events),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.asking, l.hush = context.WithCancel(context.Background())
	if !o.private() && o.dial == nil {
		o.log.Warn("the way to the server is not encrypted, nor is the credential on it: see wss", "tunnel", o.id)
	}
	go l.run(up, ended)
	var err error
	select {
	case err = <-l.first:
	case <-l.gone:
		err = l.ended()
	case <-ctx.Done():
		err = context.Cause(ctx)
		l.mu.Lock()
		if l.failed != nil {
			err = fmt.Errorf("%w: %w", err, l.failed)
		}
		l.mu.Unlock()
	}
	if err != nil {
		l.end()
		return nil, err
	}
	return l, nil
}

// run runs the agent until its end.
func (l *link) run(up *agent.Upstream, ended func() error) {
	defer close(l.done)
	err := agent.Run(l.ctx, l.agentOptions(up))
	if err != nil {
		err, _ = translate(err)
	}
	l.mu.Lock()
	l.err = err
	l.mu.Unlock()
	l.cancel()
	l.hush()
	ended()
	l.toldOnce.Do(func() { close(l.told) })
	l.enter(Event{State: StateClosed, Err: err})
	close(l.gone)
	l.events.end()
}

func (l *link) agentOptions(up *agent.Upstream) agent.Options {
	o := l.opts
	instance := o.instance
	if instance == "" {
		var b [12]byte
		rand.Read(b[:])
		instance = hex.EncodeToString(b[:])
	}
	var token func() (string, error)
	if o.token != nil {
		token = l.token
	}
	return agent.Options{
		Server: o.server,
		Token:  token,
		Tunnels: []agent.Tunnel{{
			ID:        tunnel.ID(o.id),
			Kind:      o.kind,
			Port:      uint16(o.port),
			Hostnames: o.hostnames,
			HTTP2:     o.http2,
			Policy:    o.encoded,
			Upstream:  up,

			// Accept shows who the visitor is; an upstream is told in
			// headers.
			PerVisitor: o.kind == dialect.HTTP && o.listening,
		}},
		Instance:    instance,
		Connections: o.conns,
		TLS:         o.tls,
		Out:         o.out,
		DialContext: o.dial,
		Host:        o.host,
		Carrier:     o.carrier,
		Header:      o.header,
		Grace:       grace,
		Cut:         l.cut,
		OnState:     l.onState,
		Logger:      o.log,
	}
}

// token gives the agent its credential.
func (l *link) token() (string, error) {
	ctx, cancel := context.WithTimeout(l.asking, tokenTimeout)
	defer cancel()
	t, err := l.opts.token(ctx)
	t = strings.TrimSpace(t)
	if err == nil && t == "" {
		err = errors.New("it is empty")
	}
	if err != nil {
		return "", &tokenError{err}
	}
	return t, nil
}

// onState is told of the agent's state.
func (l *link) onState(s agent.State) {
	if l.ctx.Err() != nil && s.Phase != agent.Stopping {
		return // it is closing, and stays so
	}
	e := Event{Wait: s.Wait}
	passing := true
	if s.Err != nil {
		e.Err, passing = translate(s.Err)
	}
	switch s.Phase {
	case agent.Connecting:
		e.State = StateConnecting
	case agent.Connected:
		e.State = StateConnected
		e.URLs = s.Bound[0].URLs
	case agent.Reconnecting:
		e.State = StateReconnecting
	case agent.Refused:
		e.State = StateRefused
	case agent.Stopping:
		e.State = StateClosing
		l.toldOnce.Do(func() { close(l.told) })
	default:
		return
	}
	up := l.enter(e)
	if up || !passing {
		select {
		case l.first <- e.Err: // nil if it is up
		default:
		}
	}
}

// enter makes e the present state. It reports whether the link is up, or was
// before.
func (l *link) enter(e Event) (up bool) {
	l.mu.Lock()
	if e.State == StateConnected {
		l.urls, l.failed = slices.Clone(e.URLs), nil
	}
	if l.urls == nil {
		if e.State == StateReconnecting {
			e.State = StateConnecting
		}
		if e.Err != nil {
			l.failed = e.Err
		}
	}
	// One more connection that is up is no news.
	same := e.State == StateConnected && l.status.State == StateConnected && slices.Equal(e.URLs, l.status.URLs)
	l.status = e
	up = l.urls != nil
	l.mu.Unlock()
	if !same {
		l.events.put(e)
	}
	return up
}

// stop begins to end the link, and returns when the server has been told, if
// that does not take long.
func (l *link) stop() {
	l.cancel()
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case <-l.told:
	case <-t.C:
	}
}

// end ends the link at once. It does not wait until all events have been told:
// whoever is told one may call it.
func (l *link) end() {
	l.cancel()
	l.hush()
	l.cutOnce.Do(func() { close(l.cut) })
	<-l.gone
}

// shutdown ends the link when its conns have ended, or ctx has.
func (l *link) shutdown(ctx context.Context) error {
	l.cancel()
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		l.end()
		return ctx.Err()
	}
}

func (l *link) wait() error {
	<-l.done
	return l.ended()
}

// ended returns why the link ended by itself, if it has.
func (l *link) ended() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *link) current() Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

func (l *link) publicURLs() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.urls)
}

func (l *link) publicURL() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.urls) == 0 {
		return ""
	}
	return l.urls[0]
}

// An addr is the host and port of a public address.
type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }

func (l *link) addr() net.Addr {
	u, err := url.Parse(l.publicURL())
	if err != nil {
		return addr("")
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "tls": "443"}[u.Scheme]
	}
	return addr(net.JoinHostPort(u.Hostname(), port))
}
