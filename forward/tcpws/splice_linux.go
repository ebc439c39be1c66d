package tcpws

import (
	"io"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
	"adit/internal/wsframe"
)

// Bytes move from socket to socket through a pipe without being copied, where
// both are plain TCP and nothing is to be masked. A frame's header is sent in
// front of what is in the pipe; see splice(2).

const (
	// spliceFrom is how much has to move in one go, and how long a frame has to
	// be, for a pipe to pay.
	spliceFrom = 256 << 10

	// pipeSize is what a pipe is to hold, in bytes. The kernel lets one
	// unprivileged user have 64 MiB in pipes (/proc/sys/fs/pipe-user-pages-soft),
	// of which a client and a server of one machine leave something to others.
	pipeSize = 1 << 20
	maxPipes = 24

	// leastPipe is the size of a pipe that is still worth its while. Over its
	// budget a user gets smaller ones.
	leastPipe = 64 << 10

	// keptPipes is how many are kept for the next use.
	keptPipes = 8

	// pipePause is how long none is made after that has failed.
	pipePause = time.Second
)

// A pipe is an empty pipe between two uses of it.
type pipe struct{ r, w, size int }

var (
	pipes     = make(chan *pipe, keptPipes) // those that nobody uses
	made      atomic.Int32                  // all that there are
	pipesFrom atomic.Int64                  // when one may be made again, in Unix nanoseconds
)

// getPipe returns an empty pipe, or nil if there is none to be had.
func getPipe() *pipe {
	select {
	case p := <-pipes:
		return p
	default:
	}
	if made.Add(1) > maxPipes || time.Now().UnixNano() < pipesFrom.Load() {
		made.Add(-1)
		return nil
	}
	p := makePipe()
	if p == nil {
		pipesFrom.Store(time.Now().Add(pipePause).UnixNano())
		made.Add(-1)
	}
	return p
}

func makePipe() *pipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1]}
	var err error
	if p.size, err = unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		p.size, err = unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0)
	}
	if err != nil || p.size < leastPipe {
		unix.Close(p.r)
		unix.Close(p.w)
		return nil
	}
	return p
}

// put gives an empty pipe back.
func (p *pipe) put() {
	select {
	case pipes <- p:
	default:
		p.close()
	}
}

// close is for a pipe that something is left in, or that nobody needs.
func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
	made.Add(-1)
}

func (l *link) canSpliceOut() bool {
	return l.ws.raw != nil && l.tcp.raw != nil && (!l.client || l.features.zeroMask)
}

func (l *link) canSpliceIn() bool { return l.ws.raw != nil && l.tcp.raw != nil }

// A fill moves bytes from a socket to an empty pipe, which it borrows only when
// they are there.
type fill struct {
	most int64 // bytes
	pipe *pipe // nil if none was to be had
	n    int
	err  error
	try  func(fd uintptr) bool // f.once, allocated once
}

// once is for RawConn.Read: false waits for the socket.
func (f *fill) once(fd uintptr) bool {
	if f.pipe = getPipe(); f.pipe == nil {
		f.err = nil // of an attempt before this one
		return true
	}
	f.n, f.err = nonblock.Splice(int(fd), f.pipe.w, int(min(f.most, int64(f.pipe.size))))
	if f.err == nil && f.n > 0 {
		return true
	}
	f.pipe.put()
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

// write moves all n bytes that are in the pipe to a socket.
func (p *pipe) write(to syscall.RawConn, n int) (err error) {
	werr := to.Write(func(fd uintptr) bool {
		for n > 0 {
			var m int
			if m, err = nonblock.Splice(p.r, int(fd), n); err != nil {
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
	if err := f.from(l.tcp.raw, pipeSize); err == io.EOF {
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
		p.close()
		return 0, true, errShut
	}
	l.frames.Add(1)
	err = sendMore(l.ws.raw, wsframe.Append(l.head[:0], wsframe.Binary, n, l.client, 0))
	if err == nil {
		err = p.write(l.ws.raw, n)
	}
	if err != nil {
		l.wmu.Unlock()
		p.close()
		return n, true, err
	}
	p.put()
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
			p.close()
			return n, true, &writeError{err}
		}
		p.put()
	}
	return n, true, nil
}

// writePiped writes what is in the pipe to tcp.
func (l *link) writePiped(p *pipe, n int) error {
	l.tmu.Lock()
	defer l.tmu.Unlock()
	err := p.write(l.tcp.raw, n)
	if err != nil {
		l.discard(err)
	}
	return err
}
