package tcpws

import (
	"bytes"
	"errors"
	"log"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"adit/internal/wsframe"
)

// Texts between two of our own, as text messages: the sender's TCP connection
// has ended this way, or was reset.
const (
	textEnd   = "end"
	textReset = "reset"
	maxText   = 16
)

var (
	errBroken   = errors.New("the websocket broke off")
	errPeerTCP  = errors.New("the connection behind the websocket was reset")
	errText     = errors.New("text message: only binary ones are allowed")
	errMasking  = errors.New("frame that is masked and must not be, or the other way round")
	errSequence = errors.New("continuation of no message, or a message within another")
	errClose    = errors.New("close frame whose code or text is malformed")
	errShut     = errors.New("a close frame was sent")
)

// A link is one WebSocket and one TCP connection, and what passes between them.
// One goroutine moves each direction.
type link struct {
	ws, tcp  socket
	client   bool // masks what it sends
	early    []byte
	features features

	wmu  sync.Mutex // held while a frame is written to ws
	shut bool       // a close frame was sent; guarded by wmu
	head [wsframe.MaxHeader]byte

	tmu sync.Mutex // held while bytes are written to tcp, until a failure is known to mu

	mu       sync.Mutex // guards the fields below
	err      error      // what ended the link before its time
	cause    error      // what will, once the other direction is through; see lose
	outOver  bool       // nothing is sent any more but what ends the WebSocket
	discards bool       // what comes from ws is for nobody
	wasReset bool       // tcp was reset, as a write to it has found
	outEnded bool       // tcp has come to its end, and the other side knows
	inEnded  bool       // the other side's has
	pong     []byte     // payload of the pong that waits for the writer
	hasPong  atomic.Bool
	lingers  atomic.Bool // ws is read until its end, or its silence; set while mu is held

	alive *time.Timer  // of keepAlive; nil unless client
	began time.Time    // of run
	last  atomic.Int64 // when data was sent last, in nanoseconds after began

	sent, received atomic.Int64 // payload bytes to ws and from it
}

// newLink returns a link of two conns, of which it takes care from then on.
func newLink(ws, tcp net.Conn) *link {
	tune(ws)
	tune(tcp)
	l := new(link)
	l.ws.init(ws)
	l.tcp.init(tcp)
	return l
}

// run moves both directions until they have ended, and closes both conns. Its
// error is nil if both came to their end.
func (l *link) run() error {
	l.began = time.Now()
	if l.client {
		l.mu.Lock()
		l.alive = time.AfterFunc(keepaliveEvery, l.keepAlive)
		l.mu.Unlock()
	}
	outDone := make(chan struct{})
	go func() {
		defer close(outDone)
		l.out()
	}()
	l.in()
	<-outDone
	l.mu.Lock()
	if l.alive != nil {
		l.alive.Stop()
		l.alive = nil
	}
	err := l.err
	if err == nil {
		err = l.cause
	}
	l.mu.Unlock()
	l.ws.Close()
	l.tcp.Close()
	return err
}

// fail ends both directions at once. The TCP connection is reset, so that its
// far side does not take what it got for the whole.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	if l.err = l.cause; l.err == nil {
		l.err = err
	}
	abort(l.tcp.Conn)
	l.ws.Close()
}

// endSending ends the WebSocket's conn our way, so that the other side need not
// wait for us; what it sends is still read. A reverse proxy between may close
// both ways then: so it is not for when the other side is still to get something
// while it sends.
func (l *link) endSending() {
	if hc, ok := l.ws.Conn.(interface{ CloseWrite() error }); ok {
		hc.CloseWrite()
	}
}

// lose is for a direction that has failed, or will, while the other may still
// have something: what was sent or received before is not to be lost with it.
// The WebSocket is read on, since a conn that is closed with bytes unread resets
// what is on its way to the other side.
func (l *link) lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		l.cause = err
	}
	l.outOver = true
	l.lingers.Store(false)
	l.ws.SetReadDeadline(time.Now().Add(graceTime))
}

// heard is for when something has come from ws. Who still takes in what it was
// sent, at whatever pace, is not cut off: a conn that is closed while something
// comes resets what is on its way to the other side.
func (l *link) heard() {
	if !l.lingers.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lingers.Load() {
		l.ws.SetReadDeadline(time.Now().Add(lingerTime))
	}
}

// discard is for when tcp takes no more. What it has sent before is still on its
// way to the other side, so the WebSocket is read on until that is through, and
// then for a while.
func (l *link) discard(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.discards, l.wasReset = true, errors.Is(err, syscall.ECONNRESET)
	l.lingers.Store(false)
	if l.outOver {
		l.ws.SetReadDeadline(time.Now().Add(drainTime))
	}
}

// failed reports whether the link has failed.
func (l *link) failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err != nil
}

// abort closes c with a reset.
func abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

// keepAlive sends an empty message when keepaliveEvery has passed since data was
// sent, and again each time, so that nothing between takes the connection for
// dead.
func (l *link) keepAlive() {
	wait := keepaliveEvery - (time.Since(l.began) - time.Duration(l.last.Load()))
	if wait <= 0 {
		wait = keepaliveEvery
		if l.wmu.TryLock() { // otherwise something is being sent right now
			if !l.shut {
				l.writeLocked(wsframe.Binary, nil)
			}
			l.unlockWrite()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.alive != nil {
		l.alive.Reset(wait)
	}
}

// stir is for data that is about to be sent.
func (l *link) stir() {
	if l.client {
		l.last.Store(int64(time.Since(l.began)))
	}
}

// key returns the mask of the next frame.
func (l *link) key() uint32 {
	if !l.client || l.features.zeroMask {
		return 0
	}
	return rand.Uint32()
}

// writeLocked sends a short frame. Its error is final.
func (l *link) writeLocked(op byte, payload []byte) error {
	var b [wsframe.MaxHeader + wsframe.MaxControl]byte
	key := l.key()
	frame := wsframe.Append(b[:0], op, len(payload), l.client, key)
	n := len(frame)
	frame = frame[:n+len(payload)]
	wsframe.Mask(frame[n:], payload, key)
	_, err := l.ws.Write(frame)
	return err
}

// writeText sends one of the texts between two of our own.
func (l *link) writeText(text string) error {
	l.wmu.Lock()
	err := errShut
	if !l.shut {
		err = l.writeLocked(wsframe.Text, []byte(text))
	}
	if perr := l.unlockWrite(); err == nil {
		err = perr
	}
	return err
}

// close sends a close frame, if none was sent. Nothing is sent after it.
func (l *link) close(payload []byte) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if l.shut {
		return nil
	}
	l.shut = true
	return l.writeLocked(wsframe.Close, payload)
}

// answerPing sends a pong now, or leaves that to who is writing.
func (l *link) answerPing(payload []byte) {
	l.mu.Lock()
	l.pong = append(l.pong[:0], payload...)
	l.mu.Unlock()
	l.hasPong.Store(true)
	if l.wmu.TryLock() {
		l.unlockWrite()
	}
}

// unlockWrite releases wmu, after a pong that waits for it.
func (l *link) unlockWrite() error {
	for {
		var err error
		if l.hasPong.CompareAndSwap(true, false) && !l.shut {
			l.mu.Lock()
			payload := bytes.Clone(l.pong)
			l.mu.Unlock()
			err = l.writeLocked(wsframe.Pong, payload)
		}
		l.wmu.Unlock()
		// One more may have come between the look and the unlock.
		if err != nil || !l.hasPong.Load() || !l.wmu.TryLock() {
			return err
		}
	}
}

// endOut says that tcp has come to its end. After that the other side may still
// send: one of our own until its own end, an original what it has not read ours
// before.
func (l *link) endOut() error {
	if !l.features.ends {
		err := l.close(nil)
		l.mu.Lock()
		l.outOver = true
		wait := lingerTime
		if l.discards {
			wait = drainTime
		}
		l.lingers.Store(!l.discards)
		l.ws.SetReadDeadline(time.Now().Add(wait))
		l.mu.Unlock()
		return err
	}
	if err := l.writeText(textEnd); err != nil {
		return err
	}
	l.mu.Lock()
	l.outEnded, l.outOver = true, true
	both := l.inEnded
	if l.discards {
		l.ws.SetReadDeadline(time.Now().Add(drainTime))
	}
	l.mu.Unlock()
	if both {
		return l.finish()
	}
	return nil
}

// endIn passes the other side's end on.
func (l *link) endIn() error {
	closeWrite(l.tcp.Conn)
	l.mu.Lock()
	l.inEnded = true
	both := l.outEnded
	l.mu.Unlock()
	if both {
		return l.finish()
	}
	return nil
}

// finish ends the WebSocket after both directions.
func (l *link) finish() error {
	err := l.close(nil)
	l.ws.SetReadDeadline(time.Now().Add(closeTime))
	return err
}

func closeWrite(c net.Conn) {
	if hc, ok := c.(interface{ CloseWrite() error }); ok {
		hc.CloseWrite()
		return
	}
	c.Close()
}

// ended reports whether the way of its kind needs nothing of the WebSocket any
// more, so that a websocket that ends now does no harm.
func (l *link) ended() (in, out bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inEnded, l.outEnded
}

// peerShut acts on a close frame of the other side, and answers with its code.
func (l *link) peerShut(payload []byte) {
	in, _ := l.ended()
	l.ws.SetWriteDeadline(time.Now().Add(graceTime)) // it may read nothing any more
	l.close(payload[:min(len(payload), 2)])
	if l.features.ends && !in {
		l.fail(errBroken) // one of our own would have said so
		return
	}
	l.endSending()
	if !in {
		l.endIn()
	}
	// What tcp still sends is for nobody; but if it were not read, what it was
	// sent might not be either.
	l.tcp.SetReadDeadline(time.Now().Add(drainTime))
}

// resetBefore is for when tcp seems to have come to its end. The system tells of
// a reset once: if that was to a write, a read sees an end. (After a true end a
// write is told EPIPE.)
func (l *link) resetBefore() error {
	if l.tcp.isClosed() { // so that a write ends at once, if there is one
		l.tmu.Lock()
		defer l.tmu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wasReset {
		return &readError{syscall.ECONNRESET}
	}
	return nil
}

// logEnd logs why a link ended, if that was before its time, as the original
// does with the way in which it noticed.
func logEnd(to *log.Logger, peer string, err error) {
	switch {
	case err == nil:
	case isRead(err):
		to.Printf("TCPToWS - %s: %v", peer, err)
	default:
		to.Printf("WSToTCP - %s: %v", peer, err)
	}
}
