package wsmux

import (
	"io"
	"maps"
	"math"
	"net"
	"slices"
	"time"

	"adit/internal/trywrite"
	"adit/tunnel"
)

var (
	errOverrun = &tunnel.ResetError{Code: tunnel.ResetOverload, Reason: "more bytes than there was credit for"}
	errTooMuch = &tunnel.ResetError{Code: tunnel.ResetOverload, Reason: "too many bytes of the session wait for their readers"}
)

// deliver hands the stream a piece of DAT. It reports false if it wants no more
// of the message. It belongs to the goroutine that reads the conn.
func (st *Stream) deliver(piece []byte) bool {
	s := st.s
	st.rmu.Lock()
	st.left -= int64(len(piece))
	switch {
	case st.left < 0:
		st.rmu.Unlock()
		st.overrun()
		return false
	case st.eof:
		st.rmu.Unlock()
		return false
	case st.rclosed:
		// The credit goes back, or an original would wait for it and not
		// see that the stream has ended.
		st.returnCredit(len(piece))
		return true
	case st.rerr != nil:
		st.rmu.Unlock()
		return false
	}
	if n := st.writeDirectLocked(piece); n > 0 {
		if piece = piece[n:]; len(piece) == 0 {
			st.returnCredit(n)
			return true
		}
		st.consumed += n
	}
	st.storeLocked(piece)
	st.rcond.Signal()
	st.rmu.Unlock()
	s.came.Add(int64(len(piece)))
	return s.held.Add(int64(len(piece))) <= s.opts.MaxHeld || s.makeRoom(st)
}

// makeRoom ends streams that nobody has read for longest, until no more is held
// than may be. It reports whether st is none of them.
func (s *Session) makeRoom(st *Stream) bool {
	for s.held.Load() > s.opts.MaxHeld {
		s.mu.Lock()
		streams := slices.Collect(maps.Values(s.streams))
		s.mu.Unlock()
		stalled := st // all that is held may be of streams that have ended
		oldest := int64(math.MaxInt64)
		for _, one := range streams {
			one.rmu.Lock()
			if one.size > 0 && one.waitedAt < oldest {
				stalled, oldest = one, one.waitedAt
			}
			one.rmu.Unlock()
		}
		stalled.abandon(errTooMuch)
		if stalled == st {
			return false
		}
	}
	return true
}

// overrun ends a stream on which more was sent than there was credit for. The
// session goes on.
func (st *Stream) overrun() {
	st.rmu.Lock()
	st.mute = true // what comes is lost, and so is its credit
	st.left = 1 << 62
	st.rmu.Unlock()
	st.abandon(errOverrun)
}

// abandon ends both directions of a stream for a reason of this side. What was
// not read is lost.
func (st *Stream) abandon(err *tunnel.ResetError) {
	discarded := st.failRead(err, true)
	s := st.s
	s.mu.Lock()
	if s.opts.Extended && !(st.finSent && st.finReceived) {
		s.appendResetLocked(st.id, uint16(err.Code), err.Reason)
		s.goneLocked(st, err)
	} else {
		s.finishLocked(st)
		if discarded > 0 && !st.finReceived && err != errOverrun {
			// An original that waits for credit would not see the FIN.
			s.appendCreditLocked(st.id, discarded)
		}
		st.failLocked(err)
		s.forgetLocked(st)
	}
	s.flushUnlock()
}

// storeLocked copies piece behind what has arrived.
func (st *Stream) storeLocked(piece []byte) {
	if st.size == 0 {
		st.waitedAt = st.s.came.Load()
	}
	st.size += len(piece)
	if n := len(st.buffers); n > 0 {
		last := st.buffers[n-1]
		k := copy(last.mem[last.w:], piece)
		last.w += k
		piece = piece[k:]
	}
	for len(piece) > 0 {
		want := len(piece)
		if len(st.buffers) > 0 {
			want = max(want, min(st.size, 16<<10)) // it piles up
		}
		b := held.get(held.class(want))
		b.w = copy(b.mem, piece)
		piece = piece[b.w:]
		st.buffers = append(st.buffers, b)
	}
}

// waitReadLocked waits, with rmu held, until there is something to read. The
// error is what Read returns otherwise.
func (st *Stream) waitReadLocked() error {
	for {
		if err := st.rdeadline.Err(); err != nil {
			return err
		}
		if st.sink != nil && st.sink.err != nil {
			return st.sink.err
		}
		switch {
		case st.size > 0:
			return nil
		case st.rerr != nil:
			return st.rerr
		case st.eof:
			return io.EOF
		}
		st.rcond.Wait()
	}
}

// Read reads what has arrived. It returns io.EOF behind the last byte, a
// *tunnel.ResetError or *tunnel.RefusedError if the other side ended the stream
// so, or why the session has ended, which wraps tunnel.ErrClosed.
func (st *Stream) Read(p []byte) (n int, err error) {
	st.flush()
	st.rmu.Lock()
	if err := st.waitReadLocked(); err != nil {
		st.rmu.Unlock()
		return 0, err
	}
	for n < len(p) && st.size > 0 {
		b := st.buffers[0]
		k := copy(p[n:], b.bytes())
		b.r += k
		n += k
		st.size -= k
		if b.len() == 0 {
			held.put(b)
			st.buffers[0] = nil
			st.buffers = st.buffers[1:]
		}
	}
	if st.size == 0 {
		st.buffers = st.inline[:0]
	}
	st.s.held.Add(int64(-n))
	st.returnCredit(n)
	return n, nil
}

// flush sends the SYN of a stream that was opened early and not written to.
func (st *Stream) flush() {
	if st.lazy.Load() && st.lazy.Swap(false) {
		st.s.mu.Lock()
		st.s.flushUnlock()
	}
}

// WriteTo writes what arrives to w until io.EOF. It holds no memory while it
// waits. If w is a socket that takes them at once, bytes are written to it as
// they arrive, by whoever reads the conn of the session.
func (st *Stream) WriteTo(w io.Writer) (n int64, err error) {
	st.flush()
	var direct *sink
	if c, ok := w.(net.Conn); ok {
		if s := new(sink); s.w.Init(c) {
			direct = s
		}
	}
	for {
		st.rmu.Lock()
		st.sink = direct
		err := st.waitReadLocked()
		st.sink = nil
		if direct != nil {
			n += direct.n
			direct.n = 0
		}
		if err != nil {
			st.rmu.Unlock()
			if err == io.EOF {
				err = nil
			}
			return n, err
		}
		b := st.buffers[0]
		st.buffers[0] = nil
		if st.buffers = st.buffers[1:]; len(st.buffers) == 0 {
			st.buffers = st.inline[:0]
		}
		size := b.len()
		st.size -= size
		st.rmu.Unlock()

		m, err := w.Write(b.bytes())
		n += int64(m)
		held.put(b)
		st.s.held.Add(int64(-size))
		if err != nil {
			return n, err
		}
		st.rmu.Lock()
		st.returnCredit(size)
	}
}

// A sink is where a WriteTo that waits wants the bytes. It is guarded by the
// stream's rmu.
type sink struct {
	w   trywrite.Writer
	n   int64 // bytes written
	err error // of the last write
}

// writeDirectLocked writes as much of piece to the stream's sink as that takes,
// with rmu held.
func (st *Stream) writeDirectLocked(piece []byte) int {
	if st.sink == nil || st.sink.err != nil || st.size > 0 {
		return 0
	}
	n, err := st.sink.w.Write(piece)
	st.sink.n += int64(n)
	if err != nil {
		st.sink.err = err
		st.rcond.Signal()
	}
	return n
}

// returnCredit takes note, with rmu held, that n bytes left the stream, and
// releases rmu. From time to time the other side gets credit for them.
func (st *Stream) returnCredit(n int) {
	st.consumed += n
	st.waitedAt = st.s.came.Load()
	if st.consumed < st.returnAt || st.mute {
		st.rmu.Unlock()
		return
	}
	s := st.s
	grant := st.consumed
	st.consumed = 0
	took := time.Duration(0)
	if s.opts.Extended {
		now := sinceStart()
		if st.grantedAt != 0 {
			took = now - st.grantedAt
		}
		st.grantedAt = now
	}
	s.mu.Lock()
	if s.err == nil && !st.finReceived {
		if took > 0 {
			grant += s.growLocked(st, took)
		}
		st.left += int64(grant)
		s.appendCreditLocked(st.id, grant)
	}
	st.rmu.Unlock()
	s.flushUnlock()
}

// minTune is a time so short that it says nothing of the window.
const minTune = 50 * time.Microsecond

// growLocked returns by how much the window of st is to grow. took is how long
// the reader needed for the last quarter of it: with a window that holds the
// sender up, that is a quarter of a round trip.
func (s *Session) growLocked(st *Stream, took time.Duration) int {
	if s.rtt == 0 || st.rclosed || st.size > st.window/2 || took > max(s.rtt*3/8, minTune) {
		return 0
	}
	grow := min(st.window, s.opts.MaxWindow-st.window, growthBudget-s.grown)
	if grow <= 0 {
		return 0
	}
	st.window += grow
	st.grown += grow
	st.returnAt = returnAt(st.window)
	s.grown += grow
	return grow
}
