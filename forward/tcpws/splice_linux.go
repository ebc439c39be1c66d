package tcpws

import (
	"io"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"adit/internal/readable"
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
	// unprivileged user have 64 MiB in pipes (/proc/sys/fs/pipe-user-pages-soft).
	pipeSize = 1 << 20
	maxPipes = 48
)

// A pipe is an empty pipe between two uses of it.
type pipe struct{ r, w, size int }

// pipes are those that nobody uses; made counts all of them.
var (
	pipes = make(chan *pipe, maxPipes)
	made  atomic.Int32
)

// getPipe returns an empty pipe, or nil if all are in use.
func getPipe() *pipe {
	select {
	case p := <-pipes:
		return p
	default:
	}
	if made.Add(1) > maxPipes {
		made.Add(-1)
		return nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		made.Add(-1)
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1]}
	p.size, _ = unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize)
	if p.size <= 0 {
		p.size, _ = unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0)
	}
	return p
}

// put gives an empty pipe back.
func (p *pipe) put() { pipes <- p }

// close is for a pipe that something is left in.
func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
	made.Add(-1)
}

func (l *link) canSpliceOut() bool {
	return l.wsRaw != nil && l.tcpRaw != nil && (!l.client || l.features.zeroMask)
}

func (l *link) canSpliceIn() bool { return l.wsRaw != nil && l.tcpRaw != nil }

// read moves what is there of up to most bytes from a socket to the empty pipe.
// The error is EAGAIN if nothing is there.
func (p *pipe) read(from syscall.RawConn, most int64) (n int, err error) {
	rerr := from.Read(func(fd uintptr) bool {
		n, err = splice(int(fd), p.w, int(min(most, int64(p.size))))
		return true
	})
	switch {
	case rerr != nil:
		return 0, rerr
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// write moves all n bytes that are in the pipe to a socket.
func (p *pipe) write(to syscall.RawConn, n int) (err error) {
	werr := to.Write(func(fd uintptr) bool {
		for n > 0 {
			var m int
			if m, err = splice(p.r, int(fd), n); err != nil {
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

func splice(from, to, n int) (int, error) {
	for {
		m, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err != unix.EINTR {
			return int(m), err
		}
	}
}

// sendMore sends a header that more follows.
func sendMore(to syscall.RawConn, b []byte) (err error) {
	werr := to.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			var n int
			n, err = unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_MORE|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			switch err {
			case nil:
				b = b[n:]
			case unix.EINTR:
			default:
				return err != unix.EAGAIN
			}
		}
		return true
	})
	if werr != nil {
		return werr
	}
	return err
}

// spliceOut sends what is there of tcp as one message. It reports false if there
// is no pipe to be had. Its errors are those of copyOut.
func (l *link) spliceOut() (n int, ok bool, err error) {
	p := getPipe()
	if p == nil {
		return 0, false, nil
	}
	n, err = p.read(l.tcpRaw, int64(p.size))
	switch {
	case err == unix.EAGAIN: // woken for nothing
		p.put()
		return 0, true, nil
	case err != nil:
		p.put()
		if err != io.EOF {
			err = &readError{err}
		}
		return 0, true, err
	}
	l.wmu.Lock()
	if l.shut {
		l.wmu.Unlock()
		p.close()
		return 0, true, errShut
	}
	err = sendMore(l.wsRaw, wsframe.Append(l.head[:0], wsframe.Binary, n, l.client, 0))
	if err == nil {
		err = p.write(l.wsRaw, n)
	}
	l.lastSend.Store(int64(sinceStart()))
	l.sent.Add(int64(n))
	if perr := l.unlockWrite(); err == nil && perr != nil {
		p.put()
		return n, true, perr
	}
	if err != nil {
		p.close()
		return n, true, err
	}
	p.put()
	return n, true, nil
}

// spliceIn moves up to left bytes from ws to tcp. Its errors are a *writeError
// if tcp takes no more, and those of ws otherwise.
func (l *link) spliceIn(wait *readable.Waiter, left int64) (n int64, ok bool, err error) {
	for n < left {
		if err := wait.Wait(); err != nil {
			return n, true, err
		}
		p := getPipe()
		if p == nil {
			return n, n > 0, nil
		}
		m, err := p.read(l.wsRaw, left-n)
		switch {
		case err == unix.EAGAIN:
			p.put()
			continue
		case err != nil:
			p.put()
			return n, true, err
		}
		n += int64(m)
		if err := p.write(l.tcpRaw, m); err != nil {
			p.close()
			return n, true, &writeError{err}
		}
		p.put()
	}
	return n, true, nil
}
