//go:build unix

package readable

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
	"adit/internal/pipe"
)

const supported = true

// A Waiter waits for one socket again and again without allocating. Its
// methods must not be called concurrently, and it must not be copied after
// Init.
type Waiter struct {
	rc    syscall.RawConn
	ready func(fd uintptr) bool // w.look, allocated once
	asked bool                  // look has run in this Wait

	take func(fd uintptr) bool // w.read, allocated once
	b    []byte                // where read reads to
	try  bool                  // read does not wait
	n    int                   // its result, or that of splice
	err  error                 // its result, or that of splice

	move func(fd uintptr) bool // w.splice, allocated once
	pipe *pipe.Pipe            // where splice moves to
	most int                   // bytes that it moves

	ticket uint64 // of the last Park; guarded by parking.mu
}

// Init makes w wait for rc. It must be called before Wait.
func (w *Waiter) Init(rc syscall.RawConn) {
	w.rc = rc
	w.ready, w.take, w.move = w.look, w.read, w.splice
}

// Wait is like the function Wait.
func (w *Waiter) Wait() error {
	w.asked = false
	return w.rc.Read(w.ready)
}

// Read is like the conn's Read, and cheaper: see package nonblock.
func (w *Waiter) Read(b []byte) (int, error) {
	n, _, err := w.readOnce(b, false)
	return n, err
}

// TryRead is like Read, but does not wait: now is false if it would have to.
func (w *Waiter) TryRead(b []byte) (n int, now bool, err error) {
	return w.readOnce(b, true)
}

func (w *Waiter) readOnce(b []byte, try bool) (n int, now bool, err error) {
	if len(b) == 0 {
		return 0, true, nil
	}
	w.b, w.try = b, try
	err = w.rc.Read(w.take)
	w.b = nil
	return w.result(err)
}

// Splice moves up to most bytes from the socket to p, without waiting: if there
// is nothing it returns 0 and no error. Its errors are those of Read.
func (w *Waiter) Splice(p *pipe.Pipe, most int) (int, error) {
	w.pipe, w.most = p, most
	err := w.rc.Read(w.move)
	w.pipe = nil
	n, _, err := w.result(err)
	return n, err
}

// result returns what came of a read, of which RawConn.Read said err.
func (w *Waiter) result(err error) (n int, now bool, _ error) {
	n, cause := w.n, w.err
	w.n, w.err = 0, nil
	switch {
	case err != nil:
		return 0, true, err
	case cause == unix.EAGAIN:
		return 0, false, nil
	case cause != nil:
		return 0, true, &net.OpError{Op: "read", Err: cause}
	case n == 0:
		return 0, true, io.EOF
	}
	return n, true, nil
}

// read is for RawConn.Read: false waits.
func (w *Waiter) read(fd uintptr) bool {
	w.n, w.err = nonblock.Read(int(fd), w.b)
	return w.try || w.err != unix.EAGAIN
}

// splice always reports true, so that RawConn.Read never waits.
func (w *Waiter) splice(fd uintptr) bool {
	w.n, w.err = nonblock.Splice(int(fd), w.pipe.W, min(w.most, w.pipe.Size))
	return true
}

// look reports whether a read would not block. RawConn.Read calls it after
// arming the runtime's poller, and again when that reports an event. The first
// call must look at the socket itself, because the poller reports edges only:
// bytes that arrived before it was armed are not an event any more. The second
// call needs no look.
//
// It asks with poll(2) and not with a read that peeks, because the kernel
// reports a socket's error once, even to a peek: a reset conn would then look
// to the next read like one that ended well.
func (w *Waiter) look(fd uintptr) bool {
	if w.asked {
		return true
	}
	w.asked = true
	return nonblock.Readable(int(fd)) // the read finds what is wrong
}
