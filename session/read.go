package session

import (
	"io"
	"net"
	"time"

	"adit/internal/trywrite"
)

// waitReadLocked waits, with rmu held, until there are segments. The error is
// what Read returns otherwise.
func (st *Stream) waitReadLocked() error {
	for {
		if err := st.rdeadline.Err(); err != nil {
			return err
		}
		if st.sink != nil && st.sink.err != nil {
			return st.sink.err
		}
		switch {
		case len(st.segments) > 0:
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
// *ResetError or *RefusedError if the other side ended the stream so, or why
// the session ended.
func (st *Stream) Read(p []byte) (n int, err error) {
	st.rmu.Lock()
	if len(st.segments) == 0 {
		st.rmu.Unlock()
		st.flush()
		st.rmu.Lock()
	}
	if err := st.waitReadLocked(); err != nil {
		st.rmu.Unlock()
		return 0, err
	}
	for n < len(p) && len(st.segments) > 0 {
		seg := &st.segments[0]
		m := seg.read(p[n:])
		n += m
		if seg.len() == 0 {
			st.releaseLocked(seg)
			st.segments = st.segments[1:]
		}
	}
	if len(st.segments) == 0 {
		st.segments = st.inline[:0]
	}
	st.s.in.held.Add(int64(-n))
	st.returnCredit(n)
	return n, nil
}

// Await returns when Read would not wait. If it has to wait it calls idle before,
// so that the caller can give back what it would have read into.
func (st *Stream) Await(idle func()) {
	st.rmu.Lock()
	arrived := len(st.segments) > 0
	st.rmu.Unlock()
	if arrived {
		return
	}
	st.flush()
	idle()
	st.rmu.Lock()
	st.waitReadLocked() // the error comes again
	st.rmu.Unlock()
}

// WriteTo writes what arrives to w until io.EOF, without copying it where it
// arrived in large pieces. It holds no memory while it waits. If w is a socket
// or a TryWriter that takes them at once, bytes are written to it as they
// arrive, by whoever reads the carrier.
func (st *Stream) WriteTo(w io.Writer) (n int64, err error) {
	st.flush()
	var direct *sink
	switch w := w.(type) {
	case TryWriter:
		direct = &sink{try: w}
	case net.Conn:
		if s := new(sink); s.w.Init(w) {
			direct = s
		}
	}
	if direct != nil && direct.w.CanSplice() {
		st.setSplicing(true)
		defer st.setSplicing(false)
	}
	var batch []segment
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
		batch = append(batch[:0], st.segments...)
		clear(st.segments)
		st.segments = st.inline[:0]
		st.rmu.Unlock()

		for i := range batch {
			size := batch[i].len()
			m, err := batch[i].writeTo(w, direct)
			n += int64(m)
			if err != nil {
				for _, seg := range batch[i+1:] {
					size += seg.len()
				}
				st.s.in.held.Add(int64(-size))
				st.rmu.Lock()
				for j := i; j < len(batch); j++ {
					st.releaseLocked(&batch[j])
				}
				st.rmu.Unlock()
				return n, err
			}
			st.s.in.held.Add(int64(-size))
			st.rmu.Lock()
			st.releaseLocked(&batch[i])
			st.returnCredit(size)
		}
	}
}

// A TryWriter is what can be written to without waiting. WriteTo calls TryWrite
// and Write one at a time, and TryWrite with locks of the stream held: it calls
// none of the stream's methods.
type TryWriter interface {
	// TryWrite writes as much of p as there is room for, which is not an
	// error if it is less than all. Write is given the rest.
	TryWrite(p []byte) (n int, err error)
}

// A sink is where a WriteTo that waits wants the bytes. It is guarded by the
// stream's rmu.
type sink struct {
	w   trywrite.Writer
	try TryWriter // instead of w, or nil
	n   int64     // bytes written
	err error     // of the last write
}

func (k *sink) write(p []byte) (int, error) {
	if k.try != nil {
		return k.try.TryWrite(p)
	}
	return k.w.Write(p)
}

// writeDirectLocked writes as much of piece to the stream's sink as it takes,
// with rmu held, and returns the rest.
func (st *Stream) writeDirectLocked(piece []byte) (written int, rest []byte) {
	if st.sink == nil || st.sink.err != nil || len(st.segments) > 0 {
		return 0, piece
	}
	n, err := st.sink.write(piece)
	st.sink.n += int64(n)
	if err != nil {
		st.sink.err = err
		st.rcond.Signal()
	}
	return n, piece[n:]
}

// returnCredit takes note, with rmu held, that n bytes left the stream, and
// releases rmu. When half of the window was consumed the other side gets that
// much credit back.
func (st *Stream) returnCredit(n int) {
	s := st.s
	st.consumed += n
	if st.consumed < st.returnAt || st.eof || st.rclosed {
		st.rmu.Unlock()
		return
	}
	grant := st.consumed
	st.consumed = 0
	now := sinceStart()
	took := now - st.grantedAt
	st.grantedAt = now

	s.mu.Lock()
	if s.err == nil && !st.remoteEnded {
		grow := s.growLocked(st, took)
		st.returnAt = st.window / 2
		st.left += uint64(grant + grow)
		s.appendCreditLocked(st.id, grant+grow)
	}
	st.rmu.Unlock()
	s.flushUnlock()
}

// growLocked returns by how much the window of st is to grow, given how long
// the reader took to consume half of it: if not much more than a round trip, the
// window and not the path was the limit. (Half of it comes in one burst for each
// round trip then.)
func (s *Session) growLocked(st *Stream, took time.Duration) int {
	now := sinceStart()
	if l := s.link; l != nil && (s.rtt == 0 || now-s.rttAt > rttMaxAge) && !l.pinged {
		l.ping = true
	}
	if s.rtt == 0 || took > max(s.rtt+s.rtt/2, minTuneRTT) {
		return 0
	}
	if s.rtt < nearRTT && st.window >= nearWindow {
		return 0
	}
	grow := min(st.window, s.opts.WindowBudget-s.budgetUsed)
	if grow <= 0 || !s.opts.Budget.reserve(grow) {
		return 0
	}
	st.window += grow
	st.grown += grow
	s.budgetUsed += grow
	return grow
}
