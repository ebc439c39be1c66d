package session

import (
	"io"
	"time"
)

// waitReadLocked waits, with rmu held, until there are segments. The error is
// what Read returns otherwise.
func (st *Stream) waitReadLocked() error {
	for {
		if err := st.rdeadline.err(); err != nil {
			return err
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
		m := copy(p[n:], seg.b)
		n += m
		if seg.b = seg.b[m:]; len(seg.b) == 0 {
			seg.buf.release()
			*seg = segment{}
			st.segments = st.segments[1:]
		}
	}
	if len(st.segments) == 0 {
		st.segments = st.inline[:0]
	}
	st.returnCredit(n)
	return n, nil
}

// WriteTo writes what arrives to w until io.EOF, without copying it where it
// arrived in large pieces. It holds no memory while it waits.
func (st *Stream) WriteTo(w io.Writer) (n int64, err error) {
	st.flush()
	var batch []segment
	for {
		st.rmu.Lock()
		if err := st.waitReadLocked(); err != nil {
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

		for i, seg := range batch {
			m, err := w.Write(seg.b)
			n += int64(m)
			if err != nil {
				for _, seg := range batch[i:] {
					st.s.in.held.Add(int64(-len(seg.b)))
					seg.buf.release()
				}
				return n, err
			}
			seg.buf.release()
			batch[i] = segment{}
			st.rmu.Lock()
			st.returnCredit(len(seg.b))
		}
	}
}

// returnCredit takes note, with rmu held, that n bytes were consumed, and
// releases rmu. When half of the window was consumed the other side gets that
// much credit back.
func (st *Stream) returnCredit(n int) {
	s := st.s
	s.in.held.Add(int64(-n))
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
// the reader took to consume half of it: if less than a round trip, the window
// and not the path was the limit.
func (s *Session) growLocked(st *Stream, took time.Duration) int {
	now := sinceStart()
	if l := s.link; l != nil && now-s.rttAt > rttMaxAge && !l.pinged {
		l.ping = true
	}
	if s.rtt == 0 || took > max(s.rtt, minTuneRTT) {
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
