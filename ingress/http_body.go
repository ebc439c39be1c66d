package ingress

import (
	"io"
	"net"

	"adit/internal/http1"
	"adit/tunnel"
)

// A body relays the body of one response.
type body struct {
	v     *visitor
	s     *stream
	chunk bool // the visitor gets it in the chunked coding
	keep  bool // the visitor's conn can take another request
	reuse bool // and so can the stream
	moved int64
	buf   *[]byte // borrowed from pool; nil while ex.rin is enough
	pool  *bufferPool
}

// relay writes ex.out, which has the head, and the body, whose first bytes are
// given. Both go out together.
func (b *body) relay(first []byte) end {
	ex := b.v.ex
	defer b.release()
	switch ex.resp.Framing {
	case http1.NoBody:
		b.reuse = b.reuse && len(first) == 0
		if !b.write(ex.out, 0) {
			return b.visitorLeft()
		}
		return b.finish()
	case http1.Length:
		return b.relayLength(first)
	}
	return b.relayStream(first)
}

// write sends p, n bytes of which are payload, to the visitor.
func (b *body) write(p []byte, n int) bool {
	b.v.ex.started = true
	_, err := b.v.conn.Write(p)
	if err == nil {
		b.v.ex.sent += int64(n)
		b.moved += int64(n)
	}
	return err == nil
}

// buffer returns memory for the next read, more of it for bodies that are long.
func (b *body) buffer() []byte {
	want := (*bufferPool)(nil)
	switch {
	case b.moved >= bulkAfter:
		want = bulkBuffers
	case b.moved >= 2*outBuffer:
		want = smallBuffers
	}
	if want == nil {
		return b.v.ex.rin
	}
	if b.pool != want {
		b.release()
		b.buf, b.pool = want.get(), want
	}
	return *b.buf
}

func (b *body) release() {
	if b.pool != nil {
		b.pool.put(b.buf)
		b.buf, b.pool = nil, nil
	}
}

func (b *body) relayLength(first []byte) end {
	ex := b.v.ex
	left := ex.resp.Length
	if int64(len(first)) > left {
		first, b.reuse = first[:left], false
	}
	ex.out = append(ex.out, first...)
	left -= int64(len(first))
	if !b.write(ex.out, len(first)) {
		return b.visitorLeft()
	}
	for left > 0 {
		if wt, ok := b.s.conn.(io.WriterTo); ok && left >= bulkAfter && !isSocket(b.s.conn) {
			return b.relayBulk(wt, left)
		}
		b.v.await(b.s)
		buf := b.buffer()
		n, err := b.s.conn.Read(buf[:min(int64(len(buf)), left)])
		if n > 0 {
			left -= int64(n)
			if !b.write(buf[:n], n) {
				return b.visitorLeft()
			}
		}
		if err != nil && left > 0 {
			return b.cut(err)
		}
	}
	return b.finish()
}

func isSocket(c net.Conn) bool {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// relayBulk lets the stream write the rest of a long body out of its own
// memory. The stream is not used again, as it may have read beyond the body.
func (b *body) relayBulk(wt io.WriterTo, left int64) end {
	b.release()
	b.reuse = false
	w := &limitedWriter{b: b, left: left}
	_, err := wt.WriteTo(w)
	switch {
	case w.failed:
		return b.visitorLeft()
	case w.left > 0:
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return b.cut(err)
	}
	return b.finish()
}

// A limitedWriter passes on so many bytes and then fails with io.EOF.
type limitedWriter struct {
	b      *body
	left   int64
	failed bool // the visitor takes no more
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	n := int(min(int64(len(p)), w.left))
	if n > 0 && !w.b.write(p[:n], n) {
		w.failed = true
		return 0, io.ErrClosedPipe
	}
	if w.left -= int64(n); w.left == 0 {
		return n, io.EOF
	}
	return n, nil
}

// relayStream relays a body of which nobody knows the length.
func (b *body) relayStream(first []byte) end {
	ex := b.v.ex
	coded := ex.resp.Framing == http1.Chunked
	ex.rchunk.Reset()
	out, n, err := b.encode(ex.out, first, coded)
	ex.out = out
	if err != nil {
		// The head has not been sent: there is still time to say so.
		return b.badBeforeHead(err)
	}
	if !b.write(out, n) {
		return b.visitorLeft()
	}
	for !coded || !ex.rchunk.Done() {
		b.v.await(b.s)
		buf := b.buffer()
		const at = http1.MaxChunkHeader
		n, rerr := b.s.conn.Read(buf[at : len(buf)-len("\r\n")])
		if n > 0 && !b.pass(buf, at, at+n, coded, &err) {
			return b.visitorLeft()
		}
		if err != nil {
			return b.cut(err)
		}
		if rerr == nil {
			continue
		}
		if coded {
			if ex.rchunk.Done() {
				break
			}
			return b.cut(rerr)
		}
		if rerr != io.EOF {
			return b.cut(rerr)
		}
		b.reuse = false
		if b.chunk && !b.write([]byte("0\r\n\r\n"), 0) {
			return b.visitorLeft()
		}
		break
	}
	return b.finish()
}

// encode appends the first bytes of a body to out, as the visitor gets them,
// and returns how many bytes of payload that is.
func (b *body) encode(out, src []byte, coded bool) (_ []byte, n int, err error) {
	ex := b.v.ex
	for len(src) > 0 {
		data := src
		if src = nil; coded {
			if data, src, err = ex.rchunk.Next(data); err != nil {
				return out, n, &badResponse{err}
			}
		}
		n += len(data)
		if b.chunk {
			out = appendChunk(out, data)
		} else {
			out = append(out, data...)
		}
		if coded && ex.rchunk.Done() {
			b.reuse = b.reuse && len(src) == 0
			out, err = b.lastChunk(out)
			break
		}
	}
	return out, n, err
}

func (b *body) lastChunk(out []byte) ([]byte, error) {
	if !b.chunk {
		return out, nil
	}
	out, err := appendLastChunk(out, &b.v.ex.rchunk, &b.v.ex.fields)
	if err != nil {
		return out, &badResponse{err}
	}
	return out, nil
}

// pass writes what was read into buf[from:to] to the visitor. There is room for
// a chunk header before it and for a CRLF behind it. It reports false if the
// visitor takes no more; err is what is wrong with the bytes.
func (b *body) pass(buf []byte, from, to int, coded bool, err *error) bool {
	ex := b.v.ex
	start, end, done := from, to, false
	if coded {
		src := buf[from:to]
		start, end = from, from
		for len(src) > 0 && !done {
			data, rest, derr := ex.rchunk.Next(src)
			if derr != nil {
				*err = &badResponse{derr}
				return true
			}
			if len(data) > 0 {
				at := to - len(rest) - len(data)
				if end == start {
					start, end = at, at
				}
				end += copy(buf[end:], data)
			}
			src, done = rest, ex.rchunk.Done()
		}
		if done {
			b.reuse = b.reuse && len(src) == 0
		}
	}
	n := end - start
	if b.chunk && n > 0 {
		var header [http1.MaxChunkHeader]byte
		line := http1.AppendChunkHeader(header[:0], n)
		start -= copy(buf[start-len(line):], line)
		end += copy(buf[end:end+2], "\r\n")
	}
	out := buf[start:end]
	if done {
		if out, *err = b.lastChunk(out); *err != nil {
			return true
		}
	}
	return len(out) == 0 || b.write(out, n)
}

// badBeforeHead answers for a response that turned out bad before any of it was
// sent.
func (b *body) badBeforeHead(err error) end {
	b.s.reset(tunnel.ResetCancelled, "bad response")
	if b.v.ex.upload != nil {
		b.v.endUpload(b.s)
	}
	b.v.use(nil)
	return b.v.fail(err)
}

// cut ends both sides after a response that broke off: the visitor must not
// take it for the whole.
func (b *body) cut(err error) end {
	v := b.v
	b.s.reset(tunnel.ResetCancelled, "")
	v.endWait(b.s)
	if v.gone.Load() {
		return b.visitorLeft()
	}
	if _, ok := err.(*badResponse); !ok {
		err = &upstreamError{"read", err}
	}
	if u := v.ex.upload; u != nil {
		if bad, ok := u.err.(*badBody); ok {
			err = bad // that is why the stream was reset
		}
	}
	v.ex.code = explain(err).code
	v.h.opts.Logger.Debug("response broke off", "tunnel", v.ex.id, "service", v.ex.service, "err", err)
	return abortConn
}

// visitorLeft ends the stream of a visitor that does not want the rest.
func (b *body) visitorLeft() end {
	b.v.leave()
	b.s.reset(tunnel.ResetCancelled, "the visitor left")
	b.v.endWait(b.s)
	b.v.ex.code = probVisitorLeft.code
	return abortConn
}

// finish ends a response that is complete.
func (b *body) finish() end {
	v := b.v
	uploaded := v.endWait(b.s)
	if v.gone.Load() {
		b.s.reset(tunnel.ResetCancelled, "the visitor left")
		return closeConn
	}
	if b.reuse && uploaded {
		v.keep(b.s)
	} else {
		b.s.close()
	}
	switch {
	case !uploaded:
		return lingerFirst
	case !b.keep:
		return closeConn
	}
	return keepConn
}
