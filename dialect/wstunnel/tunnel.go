package wstunnel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"adit/tunnel"
)

// A Tunnel is one token at a server, with the connections that clients have
// brought under it. It outlives these: requests wait while there is none. It
// carries HTTP alone, as an http.RoundTripper. Its methods are safe for
// concurrent use.
type Tunnel struct {
	id    tunnel.ID
	label string // what /_stats shows of the token
	opts  *ServerOptions
	rooms rooms
	done  chan struct{}

	mu      sync.Mutex // guards the fields below
	closed  error
	links   []link // in the order of their turns
	waiting []*exchange
	open    map[uint16]*sending // by id, of the message format
	lastID  uint16
	pending int // exchanges, from arrival to the answer's end
	seen    time.Time
	newest  *exchange
	remote  string // of the newest link
	name    string // of that, from DNS
	clients int    // connections of clients, from their handshake on
}

var (
	_ tunnel.Tunnel     = (*Tunnel)(nil)
	_ http.RoundTripper = (*Tunnel)(nil)
)

// A link is one client's connection.
type link interface {
	// start begins an exchange. It is called with the tunnel's lock held and
	// does not block; it reports false if the link takes nothing any more.
	start(ex *exchange) bool

	// available reports whether what is started now reaches the client at
	// once. It is called with the tunnel's lock held.
	available() bool

	// end closes the link.
	end()
}

// A sending is one request under its id. It keeps the id until no answer can
// come any more, so that a late one finds nobody.
type sending struct {
	ex *exchange // nil if the caller has gone
	on link      // that an answer may come on; nil if none can
}

// An exchange is a caller's request on its way.
type exchange struct {
	method string
	caller string
	call   *call  // nil if head is all
	head   []byte // what a message has behind the id, with a small body
	body   *spool // the rest of a message; nil if head is all
	ready  bool   // head and body are complete
	again  bool   // may be sent although it was before
	sends  int
	id     uint16
	events chan event

	// The fields below are guarded by the tunnel's mu.
	sent    bool // a byte of its end was on the way
	on      link
	out     *outgoing
	retired bool        // nobody takes its events
	stopped error       // why stop was called
	cut     func(error) // ends what the caller's goroutine waits for, besides events
}

// An event is what becomes of an exchange. One of its fields is set.
type event struct {
	granted link   // it is to be carried by this link, which left it to the caller's goroutine
	answer  *spool // the message that answers it, which may not be complete yet
	lost    bool   // its link ended
	err     error  // it is refused
}

// A StatusError is an answer that the server makes itself.
type StatusError struct {
	Code      int
	Text      string
	Challenge string // for WWW-Authenticate; empty if it is of no use
}

func (e *StatusError) Error() string { return e.Text }

var (
	errNotFound  = &StatusError{Code: http.StatusNotFound, Text: "Tunnel not found (or not seen in a long time)"}
	errTooMany   = &StatusError{Code: http.StatusGatewayTimeout, Text: "Too many requests in-flight, tunnel broken?"}
	errTimeout   = &StatusError{Code: http.StatusGatewayTimeout, Text: "Tunnel timeout"}
	errLate      = &StatusError{Code: http.StatusGatewayTimeout, Text: "Timeout before forwarding the request"}
	errForgotten = &StatusError{Code: http.StatusGatewayTimeout, Text: "Tunnel deleted due to inactivity, request cancelled"}
	errLost      = &StatusError{Code: http.StatusBadGateway, Text: "Tunnel connection lost while the request was with the client; it may have been executed"}
	errRetries   = &StatusError{Code: http.StatusBadGateway, Text: "Tunnel connection lost each time that the request was with the client"}
	errTooLarge  = &StatusError{Code: http.StatusRequestEntityTooLarge, Text: "Request is larger than the tunnel can carry (see -max-body)"}
	errNoRoom    = &StatusError{Code: http.StatusServiceUnavailable, Text: "Too many large bodies in the tunnel"}
	errAnswer    = &StatusError{Code: http.StatusBadGateway, Text: "Answer is larger than the tunnel can carry (see -max-body)"}
	errGarbage   = &StatusError{Code: 506, Text: ""}
	errStopped   = &StatusError{Code: http.StatusServiceUnavailable, Text: "Server is shutting down"}
)

// idOf returns the name of a token's tunnel, which tells nothing of the token.
func idOf(token string) tunnel.ID {
	sum := sha256.Sum256([]byte(token))
	return tunnel.ID("wst-" + hex.EncodeToString(sum[:8]))
}

func newTunnel(token string, opts *ServerOptions, memory *budget) *Tunnel {
	return &Tunnel{
		id:    idOf(token),
		label: token[:min(len(token), 8)] + "...",
		opts:  opts,
		rooms: rooms{bytes: &budget{limit: opts.Budget}, memory: memory},
		done:  make(chan struct{}),
		open:  make(map[uint16]*sending),
		seen:  time.Now(),
	}
}

// ID is derived from a hash of the token.
func (t *Tunnel) ID() tunnel.ID { return t.id }

// OpenStream returns errors.ErrUnsupported: the tunnel carries HTTP.
func (t *Tunnel) OpenStream(context.Context, tunnel.StreamInfo) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// Done is closed when the tunnel has been closed or forgotten.
func (t *Tunnel) Done() <-chan struct{} { return t.done }

// Close ends the tunnel and its connections, and refuses what waits. Their
// goroutines end with them; the Server waits for these.
func (t *Tunnel) Close() error {
	t.end(errStopped)
	return nil
}

func (t *Tunnel) end(why error) {
	t.mu.Lock()
	if t.closed != nil {
		t.mu.Unlock()
		return
	}
	t.closed = why
	close(t.done)
	links, waiting := t.links, t.waiting
	t.links, t.waiting = nil, nil
	for _, ex := range waiting {
		ex.tellLocked(event{err: why})
	}
	t.mu.Unlock()
	for _, l := range links {
		l.end()
	}
}

// tellLocked hands ev to the caller's goroutine. It has room for all that can
// happen before that looks.
func (ex *exchange) tellLocked(ev event) {
	if ex.retired {
		if ev.answer != nil {
			ev.answer.free()
		}
		return
	}
	ex.events <- ev
}

// enterClient counts a client, which leaveClient takes back.
func (t *Tunnel) enterClient() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if limit := t.opts.MaxClients; limit > 0 && t.clients >= limit {
		return &StatusError{Code: http.StatusTooManyRequests, Text: fmt.Sprintf("Maximum number of clients (%d) reached for this token", limit)}
	}
	t.clients++
	return nil
}

func (t *Tunnel) leaveClient() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clients--
}

// addLink lets l carry requests, those that wait first.
func (t *Tunnel) addLink(l link, remote string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return false
	}
	t.links = append(t.links, l)
	t.remote, t.seen = remote, time.Now()
	t.dispatchLocked()
	return true
}

// removeLink takes l out. What it carried is sent again, or told that it is
// lost; left are messages that it had not begun.
func (t *Tunnel) removeLink(l link, left []*outgoing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.links = slices.DeleteFunc(t.links, func(o link) bool { return o == l })
	t.seen = time.Now()
	var again []*exchange
	took := make(map[*exchange]bool, len(left))
	for _, m := range left { // in their order
		if s := t.open[m.id]; s != nil && s.on == l && s.ex != nil {
			again = append(again, s.ex)
			took[s.ex] = true
		}
	}
	for id, s := range t.open {
		if s.on != l {
			continue
		}
		s.on = nil
		if s.ex == nil {
			delete(t.open, id)
		}
		if s.ex == nil || took[s.ex] {
			continue
		}
		if s.ex.on == l {
			s.ex.on, s.ex.out = nil, nil
			s.ex.tellLocked(event{lost: true})
		}
	}
	for _, ex := range again {
		ex.on, ex.out = nil, nil
	}
	t.waiting = append(again, t.waiting...)
	t.dispatchLocked()
}

// changed has what waits go, if there is a way again.
func (t *Tunnel) changed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dispatchLocked()
}

func (t *Tunnel) dispatchLocked() {
	for len(t.waiting) > 0 {
		ex := t.waiting[0]
		if !t.startLocked(ex) {
			return
		}
		t.waiting[0] = nil
		t.waiting = t.waiting[1:]
	}
	t.waiting = nil
}

// startLocked gives ex to the link whose turn it is.
func (t *Tunnel) startLocked(ex *exchange) bool {
	for i, l := range t.links {
		if l.available() && l.start(ex) {
			copy(t.links[i:], t.links[i+1:])
			t.links[len(t.links)-1] = l
			return true
		}
	}
	return false
}

// submit starts ex, or lets it wait for a link. Whoever calls it holds one of
// the places for pending exchanges.
func (t *Tunnel) submit(ex *exchange) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return t.closed
	}
	if len(t.waiting) > 0 || !t.startLocked(ex) {
		t.waiting = append(t.waiting, ex)
	}
	return nil
}

// resubmit is submit in front of those that came later.
func (t *Tunnel) resubmit(ex *exchange) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return t.closed
	}
	if !t.startLocked(ex) {
		t.waiting = append([]*exchange{ex}, t.waiting...)
	}
	return nil
}

// claimIDLocked gives ex the next id that is free, which it keeps: what is sent
// again has the id that it had.
func (t *Tunnel) claimIDLocked(ex *exchange) bool {
	if len(t.open) >= ids {
		return false
	}
	for {
		t.lastID = (t.lastID + 1) % ids
		if t.open[t.lastID] == nil {
			ex.id = t.lastID
			t.open[ex.id] = &sending{ex: ex}
			return true
		}
	}
}

// answered returns the exchange that a message from l with that id answers. A
// second answer finds nobody.
func (t *Tunnel) answered(l link, id uint16) *exchange {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = time.Now()
	s := t.open[id]
	if s == nil || s.on != l {
		return nil
	}
	s.on = nil
	if s.ex == nil {
		delete(t.open, id)
		return nil
	}
	s.ex.on, s.ex.out = nil, nil
	return s.ex
}

// stop ends ex with err for its caller, whatever it waits for.
func (t *Tunnel) stop(ex *exchange, err error) {
	t.mu.Lock()
	if ex.retired || ex.stopped != nil {
		t.mu.Unlock()
		return
	}
	ex.stopped = err
	ex.tellLocked(event{err: err})
	cut := ex.cut
	t.mu.Unlock()
	if cut != nil {
		cut(err)
	}
}

// cutWith has stop call f, at once if it was called already. It returns why it
// was.
func (t *Tunnel) cutWith(ex *exchange, f func(error)) error {
	t.mu.Lock()
	ex.cut = f
	err := ex.stopped
	t.mu.Unlock()
	if err != nil && f != nil {
		f(err)
	}
	return err
}

func (t *Tunnel) stoppedBy(ex *exchange) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return ex.stopped
}

func (t *Tunnel) tell(ex *exchange, ev event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ex.tellLocked(ev)
}

// alive notes a sign of life.
func (t *Tunnel) alive() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = time.Now()
}

// retire takes ex out of everything. Its id stays taken while an answer may
// come.
func (t *Tunnel) retire(ex *exchange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ex.retired = true
	if i := slices.Index(t.waiting, ex); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	if s := t.open[ex.id]; s != nil && s.ex == ex {
		s.ex = nil
		ml, ok := s.on.(*messageLink)
		if s.on == nil || ok && ex.out != nil && ml.w.unsend(ex.out) {
			delete(t.open, ex.id)
		}
	}
	for {
		select {
		case ev := <-ex.events:
			if ev.answer != nil {
				ev.answer.free()
			}
		default:
			return
		}
	}
}
