package datagrams

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/udpsocket"
)

// IdleTimeout is for how long a stream may carry no datagram, unless somebody
// says otherwise.
const IdleTimeout = 2 * time.Minute

// Relay carries datagrams between a stream and a connected UDP socket until the
// stream ends or idle has passed without one; then abort ends the stream, so
// that its far side knows why. It closes both, and returns the bytes of the
// datagrams that it took from either.
//
// While the stream takes nothing the socket is not read: the system drops what
// it has no room for.
func Relay(stream, socket net.Conn, idle time.Duration, abort func(stream net.Conn)) (fromStream, fromSocket int64, err error) {
	r := relay{stream: stream, socket: udpsocket.New(socket, udpsocket.Options{}), began: time.Now()}
	var timer watchdog
	timer.start(idle, r.quiet, func() {
		abort(stream)
		socket.Close()
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer stream.Close()
		r.outward()
	})
	out := splitter{emit: r.send, canTry: r.socket.CanTry()}
	err = out.drain(stream)
	timer.stop()
	socket.Close()
	stream.Close()
	wg.Wait()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return r.fromStream, r.fromSocket, err
}

// A relay is what the two directions of a Relay have.
type relay struct {
	stream net.Conn
	socket *udpsocket.Socket
	began  time.Time
	last   atomic.Int64 // when it carried something: since began

	fromStream int64 // of the one direction
	fromSocket int64 // of the other
}

func (r *relay) touch() { r.last.Store(int64(time.Since(r.began))) }

// quiet returns for how long nothing was carried.
func (r *relay) quiet() time.Duration {
	return time.Since(r.began) - time.Duration(r.last.Load())
}

// send sends datagrams of the stream to the socket. What cannot be sent is lost,
// as datagrams are.
func (r *relay) send(list [][]byte, wait bool) (int, error) {
	r.touch()
	send := r.socket.Send
	if !wait {
		send = r.socket.TrySend
	}
	sent, err := send(udpsocket.Envelope{}, list)
	for _, b := range list[:sent.Done()] {
		r.fromStream += int64(len(b))
	}
	return sent.Done(), err
}

// outward carries what comes from the socket until that or the stream ends. All
// that has come is written at once.
func (r *relay) outward() {
	var b *[]byte
	take := func(run udpsocket.Run) {
		if b == nil {
			b = blocks.Get().(*[]byte)
		}
		for d := range run.All() {
			*b = appendDatagram(*b, d)
		}
		r.fromSocket += int64(len(run.B))
	}
	for {
		err := r.socket.Receive(take)
		switch {
		case udpsocket.Passing(err):
			continue // nobody is there yet, or any more; or that one was too long for the path
		case err != nil:
			return
		case b == nil:
			continue
		}
		r.touch()
		_, err = r.stream.Write(*b)
		giveBack(b)
		b = nil
		if err != nil {
			return
		}
	}
}

// appendDatagram appends a datagram of at most MaxLen bytes as it is on a stream.
func appendDatagram(b, datagram []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(datagram)))
	return append(b, datagram...)
}

// keptBlock is how large, in bytes, a block may have grown that is used again.
const keptBlock = 128 << 10

// blocks are where datagrams are put together that are written at once. Nothing
// that waits for more holds one.
var blocks = sync.Pool{New: func() any { return new([]byte) }}

func giveBack(b *[]byte) {
	if cap(*b) <= keptBlock {
		*b = (*b)[:0]
		blocks.Put(b)
	}
}

// A watchdog calls a function once nothing has happened for a while.
type watchdog struct {
	mu      sync.Mutex // guards the fields below
	timer   *time.Timer
	stopped bool
}

// start has f called when quiet returns idle or more.
func (w *watchdog) start(idle time.Duration, quiet func() time.Duration, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(idle, func() {
		if !w.later(idle - quiet()) {
			f()
		}
	})
}

// later has it look again after a while, unless there is none left.
func (w *watchdog) later(left time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if left > 0 && !w.stopped {
		w.timer.Reset(left)
	}
	return left > 0 || w.stopped
}

// stop has it call nothing any more. A call that has begun goes on.
func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}
