package ingress

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"adit/internal/http1"
	"adit/internal/readable"
	"adit/policy"
	"adit/tunnel"
)

// lastPart is how long the last part of a request body may take to be sent
// after the response has ended.
const lastPart = time.Second

// An upload sends the rest of a request body in a goroutine of its own, and
// watches the visitor after that.
type upload struct {
	complete atomic.Bool   // the last byte has been read
	done     chan struct{} // closed at the end of the goroutine

	// Fields of the goroutine until done.
	left     int64 // bytes of the body to be read, if its length is known
	received int64
	sent     bool   // all of it
	err      error  // why not
	rest     []byte // what was read beyond the body
}

// startUpload sends what the visitor still has to send.
func (v *visitor) startUpload(s *stream) {
	u := &upload{done: make(chan struct{}), left: v.ex.bodyLeft}
	v.ex.upload = u
	w := &v.watch
	w.stop, w.running, w.n = false, false, 0
	v.setReadDeadline(0, 0)
	go func() {
		defer close(u.done)
		if v.ex.req.Framing == http1.Chunked {
			u.err = u.sendChunked(v, s)
		} else {
			u.err = u.sendLength(v, s)
		}
		var up *upstreamError
		var bad *badBody
		switch {
		case u.err == nil:
			u.sent = true
			v.watchOnce()
		case errors.As(u.err, &up):
			// The response, if one comes, says why.
		case errors.As(u.err, &bad):
			// It must not look complete to the upstream.
			s.reset(tunnel.ResetCancelled, "bad request body")
		case errors.Is(u.err, os.ErrDeadlineExceeded):
			// The response has ended first; see endUpload.
		default:
			v.leave()
		}
	}()
}

// endUpload ends the upload and its watch, and reports whether the whole body
// was sent. If it was not, s is reset.
func (v *visitor) endUpload(s *stream) bool {
	u := v.ex.upload
	if !u.complete.Load() {
		s.reset(tunnel.ResetCancelled, "the response ended first")
	} else {
		s.conn.SetWriteDeadline(time.Now().Add(lastPart))
	}
	w := &v.watch
	w.mu.Lock()
	w.stop = true
	v.conn.SetReadDeadline(time.Unix(1, 0))
	w.mu.Unlock()
	<-u.done
	v.conn.SetReadDeadline(time.Time{})
	v.deadline = 0
	s.conn.SetWriteDeadline(time.Time{})
	v.ex.received += u.received
	v.ex.append(u.rest)
	u.rest = nil
	if w.n > 0 {
		v.ex.append(w.byte[:w.n])
		w.n = 0
	}
	return u.sent
}

func (u *upload) sendLength(v *visitor, s *stream) error {
	if rf, ok := s.conn.(io.ReaderFrom); ok && u.left > smallBuffer && !isSocket(s.conn) {
		r := &bodyReader{u: u, v: v}
		if rc, ok := readable.Of(v.conn); ok {
			r.wait = new(readable.Waiter)
			r.wait.Init(rc)
		}
		_, err := rf.ReadFrom(r)
		switch {
		case r.err != nil:
			return r.err
		case err != nil:
			return &upstreamError{"write", err}
		case u.left > 0:
			return io.ErrUnexpectedEOF
		}
		return nil
	}
	pool := smallBuffers
	buf := pool.get()
	defer func() { pool.put(buf) }()
	for u.left > 0 {
		if u.received >= bulkAfter && pool != bulkBuffers {
			pool.put(buf)
			pool = bulkBuffers
			buf = pool.get()
		}
		n, err := v.conn.Read((*buf)[:min(int64(len(*buf)), u.left)])
		if n == 0 && err != nil {
			return unexpected(err)
		}
		u.left -= int64(n)
		u.received += int64(n)
		if u.left == 0 {
			u.complete.Store(true)
		}
		if _, err := s.conn.Write((*buf)[:n]); err != nil {
			return &upstreamError{"write", err}
		}
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (u *upload) sendChunked(v *visitor, s *stream) error {
	in := smallBuffers.get()
	defer smallBuffers.put(in)
	out := smallBuffers.get()
	defer smallBuffers.put(out)
	ex := v.ex
	var fields []http1.Field // not ex's, which the response may need now
	for {
		// What one read yields fits into out: framing of ours is no longer
		// than the visitor's, but for runs that the end of a read cut.
		n, err := v.conn.Read((*in)[:smallBuffer-2*(http1.MaxChunkHeader+2)])
		if n == 0 && err != nil {
			return unexpected(err)
		}
		src, w := (*in)[:n], (*out)[:0]
		for len(src) > 0 && !ex.chunks.Done() {
			data, rest, err := ex.chunks.Next(src)
			if err != nil {
				return &badBody{err}
			}
			src = rest
			w = appendChunk(w, data)
			u.received += int64(len(data))
			if limit := ex.pass.MaxBody; limit > 0 && ex.received+u.received > limit {
				return &badBody{policy.TooLarge(limit)}
			}
		}
		if ex.chunks.Done() {
			if w, err = appendLastChunk(w, &ex.chunks, &fields); err != nil {
				return &badBody{err}
			}
			u.rest = append([]byte(nil), src...)
			u.complete.Store(true)
		}
		if len(w) > 0 {
			if _, err := s.conn.Write(w); err != nil {
				return &upstreamError{"write", err}
			}
		}
		if ex.chunks.Done() {
			return nil
		}
	}
}

// A bodyReader reads the rest of a request body of known length for a stream
// that reads into its own memory.
type bodyReader struct {
	u    *upload
	v    *visitor
	wait *readable.Waiter // nil if the visitor's conn is no socket
	err  error            // of the visitor's conn
}

func (r *bodyReader) Read(p []byte) (int, error) {
	u := r.u
	if u.left == 0 {
		return 0, io.EOF
	}
	n, err := r.v.conn.Read(p[:min(int64(len(p)), u.left)])
	u.left -= int64(n)
	u.received += int64(n)
	if u.left == 0 {
		u.complete.Store(true)
		return n, io.EOF
	}
	if n == 0 && err != nil {
		r.err = unexpected(err)
		return 0, r.err
	}
	return n, nil
}

// WaitRead waits until Read has something to read, so that nobody needs to hold
// memory for it.
func (r *bodyReader) WaitRead() error {
	if r.wait == nil || r.u.left == 0 {
		return nil
	}
	if err := r.wait.Wait(); err != nil {
		r.err = err
		return err
	}
	return nil
}
