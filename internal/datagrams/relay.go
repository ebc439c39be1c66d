package datagrams

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"adit/internal/readable"
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
	var wg sync.WaitGroup
	timer := time.AfterFunc(idle, func() {
		abort(stream)
		socket.Close()
	})
	wg.Go(func() {
		defer stream.Close()
		wait := waiter(socket)
		for wait() == nil {
			n, ok := carry(stream, socket)
			if !ok {
				return
			}
			timer.Reset(idle)
			fromSocket += n
		}
	})
	in := NewReader(stream)
	for {
		var b []byte
		if b, err = in.Next(); err != nil {
			break
		}
		timer.Reset(idle)
		fromStream += int64(len(b))
		if errors.Is(send(socket, b), net.ErrClosed) {
			break
		} // what cannot be sent is lost, as datagrams are
	}
	in.Release()
	socket.Close()
	stream.Close()
	wg.Wait()
	timer.Stop() // nobody sets it again
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return fromStream, fromSocket, err
}

// send sends a datagram. The system tells of an earlier one that was refused
// instead of sending the next.
func send(socket io.Writer, b []byte) error {
	_, err := socket.Write(b)
	if errors.Is(err, syscall.ECONNREFUSED) {
		_, err = socket.Write(b)
	}
	return err
}

// carry takes one datagram from the socket to the stream. It reports false if
// either has ended.
func carry(stream io.Writer, socket io.Reader) (n int64, ok bool) {
	buf := buffers.Get().(*[HeadLen + MaxLen]byte)
	defer buffers.Put(buf)
	size, err := socket.Read(buf[HeadLen:])
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return 0, true // of the one before: nobody is there yet, or any more
	case err != nil:
		return 0, false
	}
	return int64(size), Write(stream, buf[:HeadLen+size]) == nil
}

// waiter returns what waits until the socket has something to read, where the
// system has a way for that.
func waiter(socket net.Conn) (wait func() error) {
	rc, ok := readable.Of(socket)
	if !ok {
		return func() error { return nil }
	}
	w := new(readable.Waiter)
	w.Init(rc)
	return w.Wait
}
