package tcpws

import (
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
	"adit/internal/pipe"
	"adit/internal/wsframe"
)

// Bytes move from socket to socket through a pipe without being copied, where
// both are plain TCP and nothing is to be masked. A frame's header is sent in
// front of what is in the pipe; see splice(2).

const (
	// spliceFrom is how much has to move in one go, and how long a frame has to
	// be, for a pipe to pay.
	spliceFrom = 256 << 10
)

func (l *link) canSpliceOut() bool {
	return l.ws.raw != nil && l.tcp.raw != nil && (!l.client || l.features.zeroMask)
}

func (l *link) canSpliceIn() bool { return l.ws.raw != nil && l.tcp.raw != nil }

// A fill moves bytes from a socket to an empty pipe, which it borrows only when
// they are there.
type fill struct {
	most int64      // bytes
	pipe *pipe.Pipe // nil if none was to be had
	n    int
	err  error
	try  func(fd uintptr) bool // f.once, allocated once
}

// once is for RawConn.Read: false waits for the socket.
func (f *fill) once(fd uintptr) bool {
	if f.pipe = pipe.Get(); f.pipe == nil {
		f.err = nil // of an attempt before this one
		return true
	}
	f.n, f.err = nonblock.Splice(int(fd), f.pipe.W, int(min(f.most, int64(f.pipe.Size))))
	if f.err == nil && f.n > 0 {
		return true
	}
	f.pipe.Put()
	f.pipe = nil
	if f.err == nil {
		f.err = io.EOF
	}
	return f.err != unix.EAGAIN
}

// from waits for bytes of a socket and moves up to most of them. If both pipe
// and err are nil afterwards there was no pipe to be had.
func (f *fill) from(socket syscall.RawConn, most int64) error {
	if f.try == nil {
		f.try = f.once
	}
	f.most, f.pipe, f.n, f.err = most, nil, 0, nil
	if err := socket.Read(f.try); err != nil {
		return err
	}
	return f.err
}

// drain moves all n bytes that are in a pipe to a socket.
func drain(p *pipe.Pipe, to syscall.RawConn, n int) (err error) {
	werr := to.Write(func(fd uintptr) bool {
		for n > 0 {
			var m int
			if m, err = nonblock.Splice(p.R, int(fd), n); err != nil {
				return err != unix.EAGAIN
			}
			n -= m
		}
		return true
	})
	if werr != nil {
		return werr
	}
	return err
}

// sendMore sends a header that more follows.
func sendMore(to syscall.RawConn, b []byte) (err error) {
	werr := to.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			var n int
			if n, err = nonblock.SendMore(int(fd), b); err != nil {
				return err != unix.EAGAIN
			}
			b = b[n:]
		}
		return true
	})
	if werr != nil {
		return werr
	}
	return err
}

// spliceOut waits for bytes of tcp and sends what is there as one message. It
// reports false if there is no pipe to be had. Its errors are those of copyOut.
func (l *link) spliceOut(f *fill) (n int, ok bool, err error) {
	if err := f.from(l.tcp.raw, pipe.Capacity); err == io.EOF {
		return 0, true, err
	} else if err != nil {
		return 0, true, &readError{err}
	}
	p, n := f.pipe, f.n
	if p == nil {
		return 0, false, nil
	}
	l.wmu.Lock()
	if l.shut {
		l.wmu.Unlock()
		p.Close()
		return 0, true, errShut
	}
	l.stir()
	err = sendMore(l.ws.raw, wsframe.Append(l.head[:0], wsframe.Binary, n, l.client, 0))
	if err == nil {
		err = drain(p, l.ws.raw, n)
	}
	if err != nil {
		l.wmu.Unlock()
		p.Close()
		return n, true, err
	}
	p.Put()
	l.sent.Add(int64(n))
	return n, true, l.unlockWrite()
}

// spliceIn moves left bytes from ws to tcp, or less if there are no pipes. Its
// errors are a *writeError if tcp takes no more, and those of ws otherwise.
func (l *link) spliceIn(f *fill, left int64) (n int64, ok bool, err error) {
	for n < left {
		if err := f.from(l.ws.raw, left-n); err != nil {
			return n, true, err
		}
		p := f.pipe
		if p == nil {
			return n, n > 0, nil
		}
		n += int64(f.n)
		if err := l.writePiped(p, f.n); err != nil {
			p.Close()
			return n, true, &writeError{err}
		}
		p.Put()
	}
	return n, true, nil
}

// writePiped writes what is in the pipe to tcp.
func (l *link) writePiped(p *pipe.Pipe, n int) error {
	l.tmu.Lock()
	defer l.tmu.Unlock()
	err := drain(p, l.tcp.raw, n)
	if err != nil {
		l.discard(err)
	}
	return err
}
