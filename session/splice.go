package session

import (
	"io"

	"adit/internal/pipe"
)

// Bytes of a large frame move from the carrier's socket to that of the stream's
// reader through a pipe, without being copied, where a WriteTo waits for them.
// They count as taken in once they are in the pipe: like memory, that outlives
// the carrier.

const (
	// spliceFrom is the least of a frame, in bytes, for which a pipe is used.
	spliceFrom = 64 << 10

	// maxPiped is how many pipes may wait for the reader of one stream.
	maxPiped = 8

	// bulkHeads is how long all headers are in front of the payload of a DATA
	// frame that is a batch of its own, in a WebSocket message over 64 KiB.
	bulkHeads = wsHead + batchHeader + frameHeader
	wsHead    = 10
)

// large reports whether a frame is being taken in that can be moved.
func (in *recvState) large() bool {
	return in.stream != nil && in.typ == frameData && in.got == frameHeader && in.size >= spliceFrom
}

// splicesNext returns 0 unless a large frame is likely to come next, whose
// payload can be moved: then it is how long the headers in front of that are,
// which are to be read alone.
func (l *link) splicesNext() int {
	in := &l.s.in
	switch {
	case l.move == nil || !in.through || in.got > 0 || l.rr.open || l.rr.got > 0:
		return 0
	case l.move.Spliceable() > 0:
		return bulkHeads - wsHead // that of the message has come with the last one
	}
	return bulkHeads
}

// splice moves what has come of a frame to the socket that waits for it. It
// reports false if nothing has come, or it is not to be done so.
func (l *link) splice() (moved bool, err error) {
	s := l.s
	in, rr := &s.in, &l.rr
	if l.move == nil || !in.large() || !rr.open || rr.kind != recBatch || rr.skip > 0 {
		return false, nil
	}
	n := min(in.rest, rr.rest, l.move.Spliceable())
	if n == 0 || !in.stream.splices() {
		return false, nil
	}
	p := pipe.Get()
	if p == nil {
		return false, nil
	}
	n, err = l.move.Splice(p, n)
	if err != nil || n == 0 {
		p.Put()
		return false, err
	}
	l.lastRecv.Store(int64(sinceStart()))
	in.off.Add(uint64(n))
	in.rest -= n
	rr.rest -= n
	s.deliverPipe(in.stream, p, n)
	if in.rest == 0 {
		in.got, in.stream = 0, nil
	}
	if rr.rest == 0 {
		if err := l.endRecord(rr); err != nil {
			return true, err
		}
	}
	s.ackSoon(l)
	return true, nil
}

// splices reports whether the stream's bytes go to a socket that takes them from
// a pipe, and another pipe may be used for them.
func (st *Stream) splices() bool {
	st.rmu.Lock()
	defer st.rmu.Unlock()
	return st.splicing && st.piped < maxPiped && !st.rclosed
}

// setSplicing takes note of whether there is a WriteTo that takes pipes.
func (st *Stream) setSplicing(on bool) {
	st.rmu.Lock()
	defer st.rmu.Unlock()
	st.splicing = on
}

// deliverPipe hands n bytes of DATA, which are in p, to their stream.
func (s *Session) deliverPipe(st *Stream, p *pipe.Pipe, n int) {
	st.rmu.Lock()
	if st.rclosed {
		st.rmu.Unlock()
		p.Close()
		return
	}
	written := 0
	if k := st.sink; k != nil && k.err == nil && len(st.segments) == 0 {
		var err error
		written, err = k.w.Splice(p, n)
		k.n += int64(written)
		if err != nil {
			k.err = err
			st.rcond.Signal()
		}
	}
	s.in.through = true
	if written == n {
		p.Put()
		st.returnCredit(written)
		return
	}
	st.segments = append(st.segments, segment{pipe: p, n: n - written})
	st.piped++
	st.rcond.Signal()
	held := s.in.held.Add(int64(n - written))
	st.returnCredit(written)
	if held > int64(s.opts.ReceiveBuffer) {
		st.Reset(resetOverload, "too many bytes of the session wait for their readers")
	}
}

func (seg *segment) len() int { return len(seg.b) + seg.n }

// releaseLocked gives back what holds the bytes of seg, with rmu held.
func (st *Stream) releaseLocked(seg *segment) {
	switch {
	case seg.pipe == nil:
		seg.buf.release()
	case seg.n == 0:
		st.piped--
		seg.pipe.Put()
	default:
		st.piped--
		seg.pipe.Close()
	}
	*seg = segment{}
}

// read takes bytes from the segment.
func (seg *segment) read(b []byte) (n int) {
	if seg.pipe == nil {
		n = copy(b, seg.b)
		seg.b = seg.b[n:]
		return n
	}
	n, err := seg.pipe.Read(b[:min(len(b), seg.n)])
	if err != nil {
		panic("session: pipe with " + err.Error()) // it is ours alone, and has what was put in
	}
	seg.n -= n
	return n
}

// writeTo writes the segment to w; direct is w as a sink, or nil.
func (seg *segment) writeTo(w io.Writer, direct *sink) (n int, err error) {
	switch {
	case seg.pipe == nil:
		return w.Write(seg.b)
	case direct != nil && direct.w.CanSplice():
		n, err = direct.w.SpliceAll(seg.pipe, seg.n)
		seg.n -= n
		return n, err
	}
	buf := getRecvBuf(1)
	defer buf.release()
	for seg.n > 0 {
		k := seg.read(buf.b)
		m, err := w.Write(buf.b[:k])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
