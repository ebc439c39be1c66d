package ingress

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/lastcall"
	"adit/policy"
)

// HTTPOptions configures an HTTP ingress. Only Router is required.
type HTTPOptions struct {
	// Router finds the tunnel for each request.
	Router Router

	// Domain is the hostname below which agents have their names, such as
	// "example.com". Together with PathMode, names below it are never taken
	// for a server that serves paths.
	Domain string

	// PathMode takes the first segment of the path as the ID, for requests
	// whose host is Domain itself, an IP address, or not routed.
	PathMode bool

	// Rules replace adit's own for visitors, if not nil.
	Rules *Rules

	// Mount is the path below which ServeHTTP is reached, such as "/tunnels";
	// empty means "/". It takes it off the paths of requests. Serve does not
	// look at it.
	Mount string

	// Scheme is what visitors speak whose conns are not TLS, as far as the
	// ingress can tell, for X-Forwarded-Proto: "http", or "https" if somebody
	// else ends their TLS; empty means "http".
	Scheme string

	// Covers reports whether visitors whose TLS handshake asks for serverName,
	// in lower case or empty, are shown a certificate that is good for host
	// too. Their requests for other hosts are refused with 421, so that
	// nobody speaks with a host whose certificate it has not seen. If nil,
	// they may ask for any.
	Covers func(serverName, host string) bool

	// SecurePort is the port at which visitors reach the server with TLS. If
	// it is not 0, those without are sent there, and agents without are
	// refused.
	SecurePort uint16

	// H2C lets visitors without TLS speak HTTP/2 from the first byte (RFC
	// 9113, section 3.3).
	H2C bool

	// TrustedProxies are the addresses of which forwarded header fields are
	// believed and kept. From anybody else they are dropped.
	TrustedProxies []netip.Prefix

	// Own is asked about requests for the server itself: those with an
	// Upgrade and those for a path below /_adit/. The handler that it
	// returns gets the request, and may hijack its conn; nil means that the
	// request is a visitor's, or unknown if its path is below /_adit/. The
	// request that Own gets has no body.
	Own func(*http.Request) http.Handler

	// OnRequest is called after each request, from the goroutine that served
	// it; it must not block.
	OnRequest func(Finished)

	// Tracer follows requests, if not nil.
	Tracer Tracer

	// MaxVisitors bounds the conns at a time; 0 means 65536. One more is
	// answered with 503 and closed.
	MaxVisitors int

	// MaxHeadBytes bounds the head of a request or response; 0 means 64 KiB.
	MaxHeadBytes int

	// HeadTimeout bounds the time from the first byte of a request, or from
	// the opening of its conn, to the end of its head; 0 means 10 s.
	HeadTimeout time.Duration

	// IdleTimeout is how long a conn may wait for its next request; 0 means
	// 120 s.
	IdleTimeout time.Duration

	// OpenTimeout bounds the opening of a stream; 0 means 10 s.
	OpenTimeout time.Duration

	// ResponseTimeout bounds the wait for the head of a response; 0 means
	// that there is no bound. Bodies are never bounded in time.
	ResponseTimeout time.Duration

	// MaxIdleStreams bounds the idle streams that are kept for one service
	// of one tunnel; 0 means 256.
	MaxIdleStreams int

	// Logger receives the ingress's events. If nil, nothing is logged.
	Logger *slog.Logger
}

const (
	maxTries     = 3                     // deliveries of one request
	retryWithin  = 10 * time.Second      // no try starts later than this after the first
	idleLimit    = 60 * time.Second      // of a pooled stream
	unsureLimit  = time.Second           // of a pooled stream that must not turn out to be dead
	sweepEvery   = 10 * time.Second      // for streams that idle too long
	watchDelay   = 50 * time.Millisecond // before a wait is long enough to see whether the visitor is there
	lingerFor    = 5 * time.Second       // for a visitor that still sends to see its answer
	lingerBytes  = 64 << 20
	tooManyWrite = time.Second

	// While the ingress shuts down, a conn waits no longer than this for its
	// first request, which is on its way as a rule, and for a further one,
	// which may just have come.
	firstCall = time.Second
	lastCall  = 100 * time.Millisecond
)

// An HTTP is the ingress for visitors that speak HTTP/1.0 and HTTP/1.1. It
// relays requests as they arrive, with no more than a few buffers for each.
// Its methods are safe for concurrent use.
type HTTP struct {
	opts     HTTPOptions // constant after NewHTTP
	base     time.Time   // what ticks count from
	streams  streamPools
	requests sync.Pool // of *exchange
	inner    innerServer
	fallback fallback
	counters httpCounters
	retiring atomic.Bool                  // conns are to end with the next answer
	draining atomic.Bool                  // and no more are accepted
	guard    atomic.Pointer[policy.Guard] // of all visitors; nil lets everybody in

	mu        sync.Mutex // guards the fields below
	fewer     sync.Cond  // of mu: there are fewer accept loops, visitors or conns
	closed    bool
	visitors  map[*visitor]struct{}
	mounts    map[*mounted]struct{}
	listeners map[net.Listener]struct{}
	accepting int // accept loops
	count     int // visitors, mounts and the conns that inner has
	sweeping  bool
	stopSweep chan struct{}
	wg        sync.WaitGroup // of all goroutines
}

// NewHTTP returns an HTTP ingress. The caller runs Serve, and Close at the end.
func NewHTTP(opts HTTPOptions) *HTTP {
	if opts.Scheme == "" {
		opts.Scheme = "http"
	}
	opts.Domain = strings.ToLower(strings.TrimSuffix(opts.Domain, "."))
	setDefault(&opts.MaxVisitors, 65536)
	setDefault(&opts.MaxHeadBytes, 64<<10)
	setDefault(&opts.HeadTimeout, 10*time.Second)
	setDefault(&opts.IdleTimeout, 120*time.Second)
	setDefault(&opts.OpenTimeout, 10*time.Second)
	setDefault(&opts.MaxIdleStreams, 256)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	h := &HTTP{
		opts:      opts,
		base:      time.Now(),
		visitors:  make(map[*visitor]struct{}),
		mounts:    make(map[*mounted]struct{}),
		listeners: make(map[net.Listener]struct{}),
		stopSweep: make(chan struct{}),
	}
	h.fewer.L = &h.mu
	h.counters.init()
	h.streams.max = opts.MaxIdleStreams
	h.requests.New = func() any { return newExchange() }
	h.inner.init(h)
	h.fallback.init(h)
	return h
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// SetPolicy lets g decide on all visitors, from their next request on, beside
// the policies of the tunnels that they go to; nil lets everybody in.
func (h *HTTP) SetPolicy(g *policy.Guard) { h.guard.Store(g) }

// now is the time since base, which is cheaper to compare than a time.Time.
func (h *HTTP) now() time.Duration { return time.Since(h.base) }

// Serve accepts visitors until l fails, ctx ends or the ingress is shut down,
// and closes l. When ctx ends, the conns that came through l are closed too;
// the error is then ctx's. After Shutdown and Close it is http.ErrServerClosed.
func (h *HTTP) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !h.addListener(l) {
		return http.ErrServerClosed
	}
	defer h.removeListener(l)
	over := sync.OnceFunc(h.stopAccepting)
	defer over()
	var own sync.WaitGroup // a visitor's goroutine closes its conn when ctx ends
	defer own.Wait()
	stop := context.AfterFunc(ctx, func() {
		l.Close()
		h.closeVisitorsOf(l)
	})
	defer stop()

	err := acceptAll(ctx, l, &h.draining, h.opts.Logger, func(conn net.Conn) {
		v, ok := h.admit(ctx, l, conn)
		if !ok {
			h.refuse(conn)
			return
		}
		own.Go(func() {
			defer h.wg.Done()
			v.serve()
		})
	})
	if err == nil {
		over()
		own.Wait()
		return http.ErrServerClosed
	}
	cancel()
	return err
}

func (h *HTTP) addListener(l net.Listener) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.draining.Load() {
		return false
	}
	h.listeners[l] = struct{}{}
	h.accepting++
	h.startSweepLocked()
	return true
}

// startAccepting says that conns may come until stopAccepting.
func (h *HTTP) startAccepting() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.draining.Load() {
		return false
	}
	h.accepting++
	h.startSweepLocked()
	return true
}

// startSweepLocked sees to it that sweep runs.
func (h *HTTP) startSweepLocked() {
	if !h.sweeping {
		h.sweeping = true
		h.wg.Go(h.sweep)
	}
}

func (h *HTTP) stopAccepting() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.accepting--
	h.fewer.Broadcast()
}

// serveTLS takes over a conn whose handshake is done, and returns at once. It
// came through l.
func (h *HTTP) serveTLS(l net.Listener, conn *tls.Conn) {
	if conn.ConnectionState().NegotiatedProtocol == "h2" {
		h.mu.Lock()
		full := h.closed || h.count >= h.opts.MaxVisitors
		if !full {
			h.count++
		}
		h.mu.Unlock()
		if full {
			conn.Close()
		} else if !h.inner.give(conn) {
			conn.Close()
			h.uncount()
		}
		return
	}
	v, ok := h.admit(context.Background(), l, conn)
	if !ok {
		h.refuse(conn)
		return
	}
	go func() { // with a fresh stack: handshakes take a large one
		defer h.wg.Done()
		v.serve()
	}()
}

func (h *HTTP) removeListener(l net.Listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.listeners, l)
}

// sweep ends streams that idle too long, until Close.
func (h *HTTP) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.streams.sweep(h.now())
			h.fallback.sweep()
		case <-h.stopSweep:
			return
		}
	}
}

func (h *HTTP) admit(ctx context.Context, l net.Listener, conn net.Conn) (*visitor, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.count >= h.opts.MaxVisitors {
		h.counters.turnedAway.Add(1)
		return nil, false
	}
	h.counters.accepted.Add(1)
	v := newVisitor(ctx, h, l, conn)
	h.visitors[v] = struct{}{}
	h.count++
	h.wg.Add(1)
	return v, true
}

// refuse answers a conn that is one too many. A TLS conn is closed without an
// answer, which could take a handshake.
func (h *HTTP) refuse(conn net.Conn) {
	if !isTLS(conn) {
		conn.SetDeadline(time.Now().Add(tooManyWrite))
		conn.Write(h.sayOf(probVisitors, "", "").append(nil, 1, false, false))
	}
	conn.Close()
}

// forget takes v out of the ingress; a handed-off conn goes on counting.
func (h *HTTP) forget(v *visitor, handedOff bool) {
	h.mu.Lock()
	delete(h.visitors, v)
	h.fewer.Broadcast()
	h.mu.Unlock()
	if !handedOff {
		h.uncount()
	}
}

func (h *HTTP) uncount() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count--
	h.fewer.Broadcast()
}

// Visitors returns the number of visitors' conns.
func (h *HTTP) Visitors() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}

func (h *HTTP) closeVisitorsOf(l net.Listener) {
	for _, v := range h.snapshot() {
		if l == nil || v.listener == l {
			v.leave()
			v.conn.Close()
		}
	}
}

func (h *HTTP) snapshot() []*visitor {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*visitor, 0, len(h.visitors))
	for v := range h.visitors {
		all = append(all, v)
	}
	return all
}

// Retire has each conn end with the answer to its next request, so that few are
// left when Shutdown comes. New conns are still accepted.
func (h *HTTP) Retire() { h.retiring.Store(true) }

// parting reports whether a conn is to end with the answer to its request.
func (h *HTTP) parting() bool { return h.retiring.Load() }

// Shutdown stops accepting visitors, and waits until those that are here, or
// wait in the listeners' queues, have had the answer to their request or ctx
// ends. Conns that wait for a request, without one on its way, are closed.
// Conns that a handler hijacked are not waited for. It does not replace Close.
func (h *HTTP) Shutdown(ctx context.Context) error {
	h.Retire()
	h.draining.Store(true)
	h.mu.Lock()
	for l := range h.listeners {
		lastcall.Begin(l)
	}
	h.mu.Unlock()
	for _, v := range h.snapshot() {
		v.hurry()
	}
	// Visitors may still give conns to the inner server.
	if err := h.await(ctx, func() bool { return h.accepting == 0 && len(h.visitors) == 0 }); err != nil {
		return err
	}
	if err := h.inner.shutdown(ctx); err != nil {
		return err
	}
	return h.await(ctx, func() bool { return h.count == 0 })
}

// await waits until what few reports, under the lock, is so or ctx ends.
func (h *HTTP) await(ctx context.Context, few func() bool) error {
	stop := context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.fewer.Broadcast()
	})
	defer stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for !few() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		h.fewer.Wait()
	}
	return nil
}

// Close ends all conns and idle streams, except conns that a handler hijacked,
// and waits for the goroutines. Serve returns. Calls after the first return
// nil.
func (h *HTTP) Close() error {
	h.retiring.Store(true)
	h.draining.Store(true)
	h.mu.Lock()
	first := !h.closed
	h.closed = true
	for l := range h.listeners {
		l.Close()
	}
	h.mu.Unlock()
	if first {
		close(h.stopSweep)
	}
	h.closeVisitorsOf(nil)
	h.abortMounted()
	h.inner.close()
	h.wg.Wait()
	h.streams.close()
	h.fallback.close()
	return nil
}
