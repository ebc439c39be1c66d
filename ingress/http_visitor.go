package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/http1"
	"adit/internal/proxyheader"
	"adit/tunnel"
)

// A visitor is one conn of a visitor. One goroutine reads its requests and
// relays them one after the other; a second one runs while a request body is
// on its way, or when the answer takes its time.
type visitor struct {
	h        *HTTP
	listener net.Listener
	conn     net.Conn
	park     parkedReader // of conn
	ctx      context.Context
	cancel   context.CancelFunc
	peer     netip.AddrPort
	secure   bool                 // conn is TLS
	tls      *tls.ConnectionState // nil until the first request has come, or if conn is not TLS
	spoken   bool                 // a request has come
	trusted  bool                 // peer is one of the trusted proxies
	forFor   string               // peer for X-Forwarded-For
	forFwd   string               // the element of Forwarded up to host=

	state    atomic.Int32           // a visitorState; whoever sets it to busy may set the deadline
	hurrying sync.Mutex             // held by hurry
	gone     atomic.Bool            // left, or is to leave
	current  atomic.Pointer[stream] // what the request in progress uses
	watch    watch
	deadline time.Duration // of reads, as set on conn, in h.now's time; 0 means none

	// What the last request was for, since the next is mostly for the same.
	name    hostName
	pathKey string // "/" and the ID

	owns *streamPool // where a stream may idle for this conn alone; nil if there is none

	ex      *exchange // nil between requests
	lending lending   // of ex
	idle    func()    // beginIdle, allocated once
}

func newVisitor(ctx context.Context, h *HTTP, l net.Listener, conn net.Conn) *visitor {
	v := &visitor{h: h, listener: l, conn: conn}
	v.ctx, v.cancel = context.WithCancel(ctx)
	v.idle = v.beginIdle
	v.park.init(conn)
	v.secure = isTLS(conn)
	return v
}

// meet finds out who the visitor is. It reports false if that cannot be told.
func (v *visitor) meet() bool {
	if err := proxyheader.Meet(v.conn); err != nil {
		v.h.opts.Logger.Debug("visitor refused", "remote", v.conn.RemoteAddr().String(), "err", err)
		return false
	}
	v.peer = addrPort(v.conn.RemoteAddr())
	v.trusted = v.h.trusts(v.peer.Addr())
	v.forFor, v.forFwd = forwardedBy(v.peer.Addr(), v.h.schemeOf(v.secure))
	return true
}

// addrPort returns a as it is compared and shown: without zone, and IPv4 as
// such. It is the zero AddrPort for what has no IP address.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	if a == nil {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// trusts reports whether what addr says about others is believed.
func (h *HTTP) trusts(addr netip.Addr) bool {
	for _, p := range h.opts.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// An end says what becomes of a visitor's conn after a request.
type end uint8

const (
	keepConn    end = iota // the next request follows
	closeConn              // all is said
	lingerFirst            // all is said, but the visitor may still be sending
	abortConn              // the visitor must not take what it got for the whole
	gaveConn               // somebody else has it
)

// What a visitor does, as far as hurry has to know.
const (
	busy    int32 = iota // with a request, or it was hurried
	fresh                // it waits for its first request
	resting              // it waits for another one
)

// serve reads and answers requests until the conn ends. It owns the conn.
func (v *visitor) serve() {
	last := closeConn
	defer func() {
		v.cancel()
		switch last {
		case lingerFirst:
			linger(v.conn)
			v.conn.Close()
		case abortConn:
			abortSocket(v.conn)
		case gaveConn:
		default:
			v.conn.Close()
		}
		v.releaseExchange()
		v.dropOwned()
		v.h.forget(v, last == gaveConn)
	}()
	if v.ctx.Err() != nil || !v.meet() {
		return
	}
	v.setReadDeadline(v.h.opts.HeadTimeout, 0)
	for {
		if v.ex == nil && !v.awaitRequest() {
			return
		}
		if last = v.serveRequest(); last != keepConn {
			return
		}
		v.ex.consume()
		if v.ex.w == 0 {
			v.releaseExchange()
		}
	}
}

func (v *visitor) releaseExchange() {
	if v.ex != nil {
		v.ex.reset()
		v.h.requests.Put(v.ex)
		v.ex = nil
	}
}

// awaitRequest waits, without a buffer, for bytes and reads them into a new
// exchange. It reports false if there will be none.
func (v *visitor) awaitRequest() bool {
	state := fresh // it has the time for a head, from the conn's opening
	if v.spoken {
		state = resting
		v.setReadDeadline(v.h.opts.IdleTimeout, v.h.opts.IdleTimeout/10)
	}
	v.state.Store(state)
	if v.h.draining.Load() {
		v.hurry()
	}
	ex, err := v.park.read(v.h)
	if !v.state.CompareAndSwap(state, busy) {
		v.hurrying.Lock() // until the deadline is set
		v.conn.SetReadDeadline(time.Time{})
		v.hurrying.Unlock()
		v.deadline = 0
	}
	v.ex = ex
	return err == nil
}

// hurry bounds the wait for a request, if the visitor is in one. What has come
// by then is still served. It may be called from any goroutine.
func (v *visitor) hurry() {
	v.hurrying.Lock()
	defer v.hurrying.Unlock()
	switch {
	case v.state.CompareAndSwap(fresh, busy):
		v.conn.SetReadDeadline(time.Now().Add(firstCall))
	case v.state.CompareAndSwap(resting, busy):
		v.conn.SetReadDeadline(time.Now().Add(lastCall))
	}
}

// setReadDeadline lets reads of the conn fail after d, or never if d is 0. A
// deadline that is set already and leaves at least slack less is good enough.
func (v *visitor) setReadDeadline(d, slack time.Duration) {
	if d == 0 {
		if v.deadline != 0 {
			v.deadline = 0
			v.conn.SetReadDeadline(time.Time{})
		}
		return
	}
	now := time.Now()
	at := now.Sub(v.h.base) + d
	if v.deadline != 0 && v.deadline <= at && v.deadline >= at-slack {
		return
	}
	v.deadline = at
	v.conn.SetReadDeadline(now.Add(d))
}

// leave ends what the request in progress waits for.
func (v *visitor) leave() {
	v.gone.Store(true)
	v.cancel()
	if s := v.current.Load(); s != nil {
		s.reset(tunnel.ResetCancelled, "the visitor left")
	}
}

// use makes s the stream that leave resets. It reports false if the visitor
// has left.
func (v *visitor) use(s *stream) bool {
	v.current.Store(s)
	return !v.gone.Load()
}

// readHead reads until the head of a request is complete, and returns its
// length. The error is io.EOF if the visitor closed before its first byte.
func (v *visitor) readHead() (int, error) {
	ex := v.ex
	ex.skipEmptyLine()
	var scan http1.Scanner
	for first := true; ; first = false {
		n, err := scan.Request(ex.unread())
		switch {
		case err != nil:
			return 0, err
		case n > v.h.opts.MaxHeadBytes:
			return 0, http1.ErrHeadTooLarge
		case n > 0:
			return n, nil
		case len(ex.unread()) >= v.h.opts.MaxHeadBytes:
			return 0, http1.ErrHeadTooLarge
		}
		if first {
			v.setReadDeadline(v.h.opts.HeadTimeout, v.h.opts.HeadTimeout/2)
		}
		if err := ex.fill(v.conn); err != nil {
			if len(ex.unread()) == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				return 0, io.EOF
			}
			return 0, errHeadTimeout
		}
		ex.skipEmptyLine()
	}
}

// linger lets the visitor see the answer although it is still sending: a close
// with bytes unread would reset the conn, and the reset overtakes the answer
// (RFC 9112, section 9.6).
func linger(conn net.Conn) {
	hc, ok := conn.(tunnel.HalfCloser)
	if !ok || hc.CloseWrite() != nil {
		return
	}
	conn.SetReadDeadline(time.Now().Add(lingerFor))
	buf := smallBuffers.get()
	defer smallBuffers.put(buf)
	for left := lingerBytes; left > 0; {
		n, err := conn.Read(*buf)
		if err != nil {
			return
		}
		left -= n
	}
}

// A hostName is what a Host field says about routing.
type hostName struct {
	raw string // the field as sent
	key string // the hostname to route; empty if it cannot be one
	// paths says that the first segment of the path may be an ID, if key is
	// not routed.
	paths bool
	// misdirected says that the conn is not for this name.
	misdirected bool
}

// lookAt returns what the Host field host leads to.
func (v *visitor) lookAt(host []byte) *hostName {
	if string(host) != v.name.raw || len(host) == 0 {
		v.name = v.h.parseHost(host)
		v.name.misdirected = v.h.misdirected(v.tls, host)
	}
	return &v.name
}

func (h *HTTP) parseHost(host []byte) hostName {
	n := hostName{raw: string(host), paths: h.opts.PathMode}
	name, _, ok := http1.SplitHost(host)
	if !ok || name[0] == '[' {
		return n
	}
	key := strings.TrimSuffix(strings.ToLower(string(name)), ".")
	if _, err := netip.ParseAddr(key); err == nil || key == h.opts.Domain || !validHostname(key) {
		return n
	}
	n.key = key
	// Names below the domain are origins of their own.
	n.paths = n.paths && (h.opts.Domain == "" || !strings.HasSuffix(key, "."+h.opts.Domain))
	return n
}

// validHostname reports whether no label of a name is empty or too long.
func validHostname(name string) bool {
	if len(name) == 0 || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 {
			return false
		}
	}
	return true
}

// A watch sees in a second goroutine whether the visitor is still there, by
// reading a byte of what it sends next.
type watch struct {
	timer *time.Timer // nil until the first use
	done  chan struct{}
	armed bool // between startWatch and stopWatch; of the visitor's goroutine

	mu      sync.Mutex // guards the fields below
	running bool       // reads
	stop    bool       // must not begin to read

	byte [1]byte // what was read, if n is 1; of the visitor's goroutine after done
	n    int
}

// startWatch begins to watch for the visitor to leave, once the wait has
// lasted for some time.
func (v *visitor) startWatch() {
	w := &v.watch
	if w.armed {
		return
	}
	v.lending.slow.Store(false)
	w.armed, w.stop, w.running, w.n = true, false, false, 0
	if w.timer == nil {
		w.done = make(chan struct{}, 1)
		w.timer = time.AfterFunc(watchDelay, v.runWatch)
		return
	}
	w.timer.Reset(watchDelay)
}

// runWatch runs in the timer's goroutine, and in that of an upload after its
// end.
func (v *visitor) runWatch() {
	v.watchOnce()
	v.watch.done <- struct{}{}
}

func (v *visitor) watchOnce() {
	w := &v.watch
	w.mu.Lock()
	if w.stop {
		w.mu.Unlock()
		return
	}
	w.running = true
	v.conn.SetReadDeadline(time.Time{})
	w.mu.Unlock()
	v.slowDown()
	n, err := v.conn.Read(w.byte[:])
	w.n = n
	if n == 0 && err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		v.leave()
	}
}

// stopWatch ends the watch. What it read is then the first of what is unread.
func (v *visitor) stopWatch() {
	w := &v.watch
	if !w.armed {
		return
	}
	w.armed = false
	if w.timer.Stop() {
		return
	}
	v.interruptWatch()
	<-w.done
	v.afterWatch()
}

func (v *visitor) interruptWatch() {
	w := &v.watch
	w.mu.Lock()
	w.stop = true
	if w.running {
		v.conn.SetReadDeadline(time.Unix(1, 0))
	}
	w.mu.Unlock()
}

func (v *visitor) afterWatch() {
	w := &v.watch
	if w.running {
		v.conn.SetReadDeadline(time.Time{})
		v.deadline = 0
	}
	if w.n > 0 {
		v.ex.append(w.byte[:w.n])
	}
}
