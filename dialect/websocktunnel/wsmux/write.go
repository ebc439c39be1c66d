package wsmux

import (
	"io"
	"net"

	"adit/internal/readable"
)

// waitWriteLocked waits until the stream has credit and its turn for n bytes,
// and returns how many may be written.
func (st *Stream) waitWriteLocked(n int) (int, error) {
	s := st.s
	woken := false // spaceq gave us its turn
	for {
		err := st.werr
		if err == nil {
			err = st.wdeadline.Err()
		}
		if err != nil {
			s.out.spaceq.drop(st)
			s.wakeLocked()
			return 0, err
		}
		limit, small := sendLimit, n <= smallData
		if small {
			limit = smallLimit
		}
		switch {
		case st.credit <= 0:
		case s.out.unsent >= limit, !small && !woken && !s.out.spaceq.empty():
			s.out.spaceq.push(st)
		default:
			s.out.spaceq.drop(st)
			return int(min(st.credit, maxData, int64(n))), nil
		}
		queued := st.queued
		st.wcond.Wait()
		woken = queued && !st.queued
	}
}

// Write queues p. It waits while the other side gives no credit or does not
// read what is queued already. The error is a *tunnel.ResetError,
// *tunnel.RefusedError, net.ErrClosed, os.ErrDeadlineExceeded, or why the
// session has ended, which wraps tunnel.ErrClosed.
func (st *Stream) Write(p []byte) (n int, err error) {
	st.wmu.Lock()
	defer st.wmu.Unlock()
	return st.write(p)
}

// write is Write with wmu held.
func (st *Stream) write(p []byte) (n int, err error) {
	s := st.s
	for first := true; first || n < len(p); first = false {
		s.mu.Lock()
		if len(p) == 0 {
			// An empty DAT would make originals read old bytes.
			err := st.werr
			s.mu.Unlock()
			return 0, err
		}
		k, err := st.waitWriteLocked(len(p) - n)
		if err != nil {
			s.mu.Unlock()
			return n, err
		}
		s.acceptLocked(st)
		st.credit -= int64(k)
		s.appendLocked(DAT, st.id, p[n:n+k])
		s.wakeLocked()
		s.flushUnlock()
		n += k
	}
	return n, nil
}

// A readWaiter can wait for bytes without reading them.
type readWaiter interface{ WaitRead() error }

type socketWaiter struct{ readable.Waiter }

func (w *socketWaiter) WaitRead() error { return w.Wait() }

// ReadFrom sends what it reads from r until io.EOF. It does not end the sending
// direction. If r can be waited for, as sockets can, it holds no memory while it
// waits for r or for credit.
func (st *Stream) ReadFrom(r io.Reader) (n int64, err error) {
	st.wmu.Lock()
	defer st.wmu.Unlock()
	wait, _ := r.(readWaiter)
	if c, ok := r.(net.Conn); ok && wait == nil {
		if rc, ok := readable.Of(c); ok {
			w := new(socketWaiter)
			w.Init(rc)
			wait = w
		}
	}
	size := 0
	for {
		if wait != nil {
			if err := wait.WaitRead(); err != nil {
				return n, err
			}
			if err := st.waitTurn(readBuffers.sizes[size]); err != nil {
				return n, err
			}
		}
		b := readBuffers.get(size)
		m, rerr := r.Read(b.mem)
		k, err := 0, error(nil)
		if m > 0 {
			k, err = st.write(b.mem[:m])
		}
		full := m == len(b.mem)
		readBuffers.put(b)
		n += int64(k)
		switch {
		case err != nil:
			return n, err
		case rerr == io.EOF:
			return n, nil
		case rerr != nil:
			return n, rerr
		case full && size < 2: // 64 KiB
			size++
		case m < readBuffers.sizes[0] && size > 0:
			size--
		}
	}
}

// waitTurn waits until some of n bytes can be written.
func (st *Stream) waitTurn(n int) error {
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := st.waitWriteLocked(n)
	s.wakeLocked() // it may come to nothing
	return err
}
