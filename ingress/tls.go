package ingress

import (
	"container/list"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/clienthello"
	"adit/internal/lastcall"
	"adit/policy"
)

// A TLSRouter finds the target for the name that a visitor asks for in a TLS
// handshake. It is safe for concurrent use.
type TLSRouter interface {
	Router

	// TLS reports whether the upstreams of a name end TLS themselves, or did
	// lately. It may wait for a moment for a name that is not known yet; ctx
	// bounds the wait.
	TLS(ctx context.Context, name string) bool
}

// Certificates are those that visitors are shown. They are safe for concurrent
// use.
type Certificates interface {
	// Certificate is tls.Config's GetCertificate.
	Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// Has reports whether there is a certificate for a name in lower case, or
	// with an empty one for visitors who name nobody.
	Has(name string) bool
}

// TLSOptions configures a TLS ingress. Router and HTTP are required.
type TLSOptions struct {
	// Router is asked for the name in the visitor's handshake.
	Router TLSRouter

	// HTTP gets the conns of the names whose upstreams do not end TLS.
	HTTP *HTTP

	// Certificates are for those conns. If nil, there are none of them.
	Certificates Certificates

	// Guests get visitors beside the router and HTTP: those that are not Rest
	// before them, the others after. nil means that there are none.
	Guests Guests

	// Ask returns the authorities of which a visitor who asks for name may
	// show a certificate, as a hint to the visitor: whoever looks at the
	// certificate has to verify it. If Ask or what it returns is nil, the
	// visitor is not asked for one.
	Ask func(name string) *x509.CertPool

	// HandshakeTimeout bounds the time to the end of a visitor's first
	// message, and from there to the end of the handshake; 0 means 10 s.
	HandshakeTimeout time.Duration

	// MaxHandshakes is how many visitors may be in their handshake at once;
	// 0 means 16384. For one more, the one that has been at it for the
	// longest time is hung up on.
	MaxHandshakes int

	// MaxVisitors is how many visitors' connections there may be whose TLS an
	// upstream ends; 0 means 10000. Further ones are reset.
	MaxVisitors int

	// OpenTimeout, Idle and OnVisit are as in TCPOptions, for visitors whose TLS
	// an upstream ends.
	OpenTimeout time.Duration
	Idle        time.Duration
	OnVisit     func(Finished)

	// Logger receives the ingress's events. If nil, nothing is logged.
	Logger *slog.Logger
}

// certainWithin is how long a name with a certificate is waited for.
const certainWithin = 5 * time.Second

// TLS is the door for visitors who speak TLS. It reads the name in their first
// message. If that stands for a tunnel whose upstream ends TLS, all bytes go
// there unread; otherwise the ingress ends TLS itself, and HTTP gets the
// visitor. Its methods are safe for concurrent use.
type TLS struct {
	opts    TLSOptions  // constant after NewTLS
	config  *tls.Config // of visitors who are not asked for a certificate
	front   *clienthello.Front
	running sync.WaitGroup
	guard   atomic.Pointer[policy.Guard]

	counters tlsCounters
	draining atomic.Bool // no more visitors are accepted but those who are connecting

	mu        sync.Mutex // guards the fields below
	fewer     sync.Cond  // of accepting, shaking and passed
	closed    bool
	accepting int // calls of Serve
	listeners map[net.Listener]struct{}
	visitors  map[*tlsVisitor]struct{} // whom HTTP does not have
	shaking   list.List                // of those in their handshake, the oldest first
	passed    int                      // of those whose TLS an upstream ends
}

// NewTLS returns a TLS ingress. The caller runs Serve, and Close at the end.
func NewTLS(opts TLSOptions) *TLS {
	setDefault(&opts.HandshakeTimeout, 10*time.Second)
	setDefault(&opts.MaxHandshakes, 16384)
	setDefault(&opts.MaxVisitors, 10_000)
	setDefault(&opts.OpenTimeout, 20*time.Second)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	t := &TLS{
		opts:      opts,
		front:     clienthello.NewFront(),
		listeners: make(map[net.Listener]struct{}),
		visitors:  make(map[*tlsVisitor]struct{}),
	}
	t.fewer.L = &t.mu
	t.counters.init()
	if opts.Certificates != nil {
		t.config = &tls.Config{
			GetCertificate: opts.Certificates.Certificate,
			NextProtos:     []string{"h2", "http/1.1"},
			MinVersion:     tls.VersionTLS12,
		}
	}
	return t
}

// SetPolicy lets g decide on all visitors that come from now on and whose TLS an
// upstream ends, beside the policies of the tunnels that they go to; nil lets
// everybody in. HTTP has one of its own.
func (t *TLS) SetPolicy(g *policy.Guard) { t.guard.Store(g) }

// configFor returns how the handshake of a visitor who asks for name goes.
func (t *TLS) configFor(name string) *tls.Config {
	if t.opts.Ask == nil {
		return t.config
	}
	authorities := t.opts.Ask(name)
	if authorities == nil {
		return t.config
	}
	c := t.config.Clone()
	c.ClientAuth, c.ClientCAs = tls.RequestClientCert, authorities
	c.SessionTicketsDisabled = true // a session from before would bring no certificate, or an old one
	return c
}

// Serve accepts visitors until l fails, ctx ends or the ingress is shut down,
// and closes l. When ctx ends, the conns that came through l are closed too,
// but those of HTTP/2, which end with HTTP; the error is then ctx's. After
// Shutdown and Close it is http.ErrServerClosed.
func (t *TLS) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !t.addListener(l) {
		return http.ErrServerClosed
	}
	defer t.removeListener(l)
	stop := context.AfterFunc(ctx, func() {
		l.Close()
		t.closeVisitors(func(v *tlsVisitor) bool { return v.listener == l })
		t.opts.HTTP.closeVisitorsOf(l)
	})
	defer stop()

	err := acceptAll(ctx, l, &t.draining, t.opts.Logger, func(conn net.Conn) { t.admit(ctx, l, conn) })
	if err == nil {
		return http.ErrServerClosed
	}
	cancel()
	return err
}

// addListener also lets HTTP wait, when it is shut down, for those who are
// about to come to it.
func (t *TLS) addListener(l net.Listener) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.draining.Load() || t.closed || !t.opts.HTTP.startAccepting() {
		return false
	}
	t.listeners[l] = struct{}{}
	t.accepting++
	return true
}

func (t *TLS) removeListener(l net.Listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.listeners, l)
	for t.shaking.Len() > 0 && !t.closed && t.accepting == 1 {
		t.fewer.Wait() // they are HTTP's before Serve is over
	}
	t.accepting--
	t.fewer.Broadcast()
	t.opts.HTTP.stopAccepting()
}

// admit serves a visitor in a goroutine of its own. If there are too many in
// their handshake, the oldest has to go: whoever means it is done within a
// moment.
func (t *TLS) admit(ctx context.Context, l net.Listener, conn net.Conn) {
	v := &tlsVisitor{t: t, listener: l, conn: conn}
	v.ctx, v.cancel = context.WithCancel(ctx)
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		v.cancel()
		conn.Close()
		return
	}
	var oldest *tlsVisitor
	if t.shaking.Len() >= t.opts.MaxHandshakes {
		oldest = t.shaking.Front().Value.(*tlsVisitor)
		t.leaveShakingLocked(oldest)
	}
	t.visitors[v] = struct{}{}
	v.place = t.shaking.PushBack(v)
	t.running.Add(1)
	t.mu.Unlock()
	t.counters.accepted.Add(1)
	if oldest != nil {
		t.counters.turnedAway.Add(1)
		oldest.abort()
		t.opts.Logger.Debug("visitor turned away: too many handshakes", "remote", oldest.conn.RemoteAddr().String())
	}
	go func() {
		defer t.running.Done()
		defer t.forget(v)
		v.serve()
	}()
}

// doneShaking takes v out of those in their handshake. It reports false if it
// had to go.
func (t *TLS) doneShaking(v *tlsVisitor) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v.place == nil || t.closed {
		return false
	}
	t.leaveShakingLocked(v)
	return true
}

func (t *TLS) leaveShakingLocked(v *tlsVisitor) {
	if v.place != nil {
		t.shaking.Remove(v.place)
		v.place = nil
		t.fewer.Broadcast()
	}
}

// pass counts v among those whose TLS an upstream ends, if there is room.
func (t *TLS) pass(v *tlsVisitor) bool {
	if !t.doneShaking(v) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.passed >= t.opts.MaxVisitors {
		return false
	}
	t.passed++
	v.passed = true
	return true
}

func (t *TLS) forget(v *tlsVisitor) {
	v.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.visitors, v)
	t.leaveShakingLocked(v)
	if v.passed {
		t.passed--
		t.fewer.Broadcast()
	}
}

// closeVisitors ends those for which which is true.
func (t *TLS) closeVisitors(which func(*tlsVisitor) bool) {
	t.mu.Lock()
	var all []*tlsVisitor
	for v := range t.visitors {
		if which(v) {
			all = append(all, v)
		}
	}
	t.mu.Unlock()
	for _, v := range all {
		v.abort()
	}
}

// Shutdown stops accepting visitors, gives those in their handshake a moment to
// end it, and waits until those whose TLS an upstream ends have gone. When ctx
// ends first, it resets them and returns ctx's error. HTTP is not shut down.
func (t *TLS) Shutdown(ctx context.Context) error {
	t.draining.Store(true)
	t.mu.Lock()
	for l := range t.listeners {
		lastcall.Begin(l)
	}
	for e := t.shaking.Front(); e != nil; e = e.Next() {
		e.Value.(*tlsVisitor).conn.SetDeadline(time.Now().Add(firstCall))
	}
	t.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.fewer.Broadcast()
	})
	defer stop()
	t.mu.Lock()
	for t.accepting+t.shaking.Len()+t.passed > 0 && ctx.Err() == nil {
		t.fewer.Wait()
	}
	over := t.accepting+t.shaking.Len()+t.passed == 0
	t.mu.Unlock()
	if over {
		return nil
	}
	t.Close()
	return ctx.Err()
}

// Close ends all visitors but those that HTTP has, and waits for the
// goroutines. Serve returns. Calls after the first return nil.
func (t *TLS) Close() error {
	t.draining.Store(true)
	t.mu.Lock()
	t.closed = true
	for l := range t.listeners {
		l.Close()
	}
	t.fewer.Broadcast()
	t.mu.Unlock()
	t.closeVisitors(func(*tlsVisitor) bool { return true })
	t.running.Wait()
	return nil
}
