package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"
)

// hconn is one visitor connection speaking HTTP/1.1 with as little work as
// possible.
type hconn struct {
	t     target
	c     net.Conn
	br    *bufio.Reader
	out   []byte
	heard bool // the far end has begun to answer the request under way
	close bool
}

func dialHTTP(t target, timeout time.Duration, bufSize int) (*hconn, error) {
	c, err := net.DialTimeout("tcp", t.addr, timeout)
	if err != nil {
		return nil, err
	}
	return &hconn{t: t, c: c, br: bufio.NewReaderSize(c, bufSize)}, nil
}

func (h *hconn) head(method, path string, n int64, id uint64, bodyLen int64) []byte {
	b := h.out[:0]
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, h.t.prefix...)
	b = append(b, path...)
	if n >= 0 {
		b = strconv.AppendInt(b, n, 10)
	}
	b = append(b, "?id="...)
	var x [16]byte
	putHex16(x[:], id)
	b = append(b, x[:]...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, h.t.host...)
	b = append(b, "\r\n"...)
	b = append(b, h.t.headers...)
	if bodyLen >= 0 {
		b = append(b, "Content-Type: application/octet-stream\r\nContent-Length: "...)
		b = strconv.AppendInt(b, bodyLen, 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	h.out = b
	return b
}

type respHead struct {
	status int
	body   bodyReader
	until  bool // body ends with the connection
	idOK   bool
	close  bool
}

// readHead reads status line and headers; it compares X-Req-Id with id.
func (h *hconn) readHead(id uint64) (respHead, error) {
	var r respHead
	var x [16]byte
	putHex16(x[:], id)
	if _, err := h.br.Peek(1); err != nil {
		return r, err
	}
	h.heard = true
	for {
		line, err := h.br.ReadSlice('\n')
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return r, err
		}
		if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
			return r, &kindErr{"bad-http", fmt.Sprintf("%.60q", line)}
		}
		s, ok := parseDec(line[9:12])
		if !ok {
			return r, &kindErr{"bad-http", fmt.Sprintf("%.60q", line)}
		}
		r = respHead{status: int(s), until: true}
		r.close = line[7] == '0'
		for {
			line, err = h.br.ReadSlice('\n')
			if err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return r, err
			}
			l := bytes.TrimRight(line, "\r\n")
			if len(l) == 0 {
				break
			}
			i := bytes.IndexByte(l, ':')
			if i < 0 {
				continue
			}
			k, v := l[:i], bytes.TrimSpace(l[i+1:])
			switch i {
			case 8:
				if bytes.EqualFold(k, []byte("x-req-id")) {
					r.idOK = bytes.Equal(v, x[:])
				}
			case 10:
				if bytes.EqualFold(k, []byte("connection")) && bytes.EqualFold(v, []byte("close")) {
					r.close = true
				}
			case 14:
				if bytes.EqualFold(k, []byte("content-length")) {
					n, ok := parseDec(v)
					if !ok {
						return r, &kindErr{"bad-http", "content-length"}
					}
					r.body.left, r.until = n, false
				}
			case 17:
				if bytes.EqualFold(k, []byte("transfer-encoding")) && bytes.EqualFold(v, []byte("chunked")) {
					r.body.chunked, r.body.left, r.until = true, 0, false
				}
			}
		}
		if r.status >= 100 && r.status < 200 {
			continue
		}
		r.body.br, r.body.first = h.br, true
		if r.until {
			r.close = true
		}
		h.close = r.close
		return r, nil
	}
}

// get fetches n bytes and verifies them. progress, when not nil, is told the
// bytes as they arrive.
func (h *hconn) get(n int64, timeout time.Duration, progress func(int)) error {
	id := nextID()
	h.heard = false
	h.c.SetDeadline(time.Now().Add(timeout))
	if _, err := h.c.Write(h.head("GET", "/bytes/", n, id, -1)); err != nil {
		return err
	}
	return h.readBody(id, n, progress)
}

func (h *hconn) readBody(id uint64, n int64, progress func(int)) error {
	r, err := h.readHead(id)
	if err != nil {
		return err
	}
	if r.status != 200 {
		b, _ := r.all(200)
		return &kindErr{fmt.Sprintf("status-%d", r.status), fmt.Sprintf("%.100q", b)}
	}
	if !r.idOK {
		return &kindErr{"wrong-id", "the answer belongs to another request"}
	}
	v := verifier{seed: seedOf(id)}
	for {
		var p []byte
		if r.until {
			p, err = peekSome(h.br, 1<<20)
			if err == io.EOF {
				break
			}
		} else {
			p, err = r.body.next()
		}
		if err != nil {
			if classify(err) == "eof" {
				return &kindErr{"short", fmt.Sprintf("%d of %d bytes", v.off, n)}
			}
			return err
		}
		if p == nil {
			break
		}
		if !v.check(p) {
			return &kindErr{"wrong-bytes", fmt.Sprintf("after byte %d of %d", v.off, n)}
		}
		h.br.Discard(len(p))
		if progress != nil {
			progress(len(p))
		}
	}
	if v.off != n {
		return &kindErr{"short", fmt.Sprintf("%d of %d bytes", v.off, n)}
	}
	return nil
}

func (r *respHead) all(max int) ([]byte, error) {
	var out []byte
	for {
		var p []byte
		var err error
		if r.until {
			p, err = peekSome(r.body.br, max)
			if err == io.EOF {
				return out, nil
			}
		} else {
			p, err = r.body.next()
		}
		if err != nil {
			return out, err
		}
		if p == nil {
			return out, nil
		}
		if len(out) < max {
			out = append(out, p...)
		}
		r.body.br.Discard(len(p))
	}
}

// post sends n bytes and reads the backend's verdict on them.
func (h *hconn) post(n int64, timeout time.Duration) error {
	id := nextID()
	h.c.SetDeadline(time.Now().Add(timeout))
	_, werr := h.c.Write(h.head("POST", "/upload", -1, id, n))
	if werr == nil {
		werr = writePattern(h.c, seedOf(id), n)
	}
	r, err := h.readHead(id)
	if err != nil {
		if werr != nil {
			return werr
		}
		return err
	}
	b, err := r.all(200)
	if r.status != 200 {
		return &kindErr{fmt.Sprintf("status-%d", r.status), fmt.Sprintf("%.100q", b)}
	}
	if werr != nil {
		return werr
	}
	if err != nil {
		return err
	}
	if !r.idOK {
		return &kindErr{"wrong-id", "the answer belongs to another request"}
	}
	if string(b) != fmt.Sprintf("good %d", n) {
		return &kindErr{"wrong-bytes", fmt.Sprintf("backend says %q for %d bytes", b, n)}
	}
	return nil
}

func probeHTTP(t target, timeout time.Duration) error {
	h, err := dialHTTP(t, timeout, 4096)
	if err != nil {
		return err
	}
	defer h.c.Close()
	return h.get(64, timeout, nil)
}

// getOver sends one GET over h, or over a new connection if h is nil, and
// returns the connection for the next one, nil if there is none. A kept-alive
// connection that the far end had closed before it answered is replaced once,
// as any HTTP client does.
func getOver(h *hconn, t target, size int64, timeout time.Duration) (next *hconn, stale bool, err error) {
	buf := 8 << 10
	if size > 4<<10 {
		buf = 32 << 10
	}
	kept := h != nil
	if !kept {
		if h, err = dialHTTP(t, timeout, buf); err != nil {
			return nil, false, err
		}
	}
	err = h.get(size, timeout, nil)
	if kept && h.isStale(err) {
		stale = true
		h.c.Close()
		if h, err = dialHTTP(t, timeout, buf); err != nil {
			return nil, stale, err
		}
		err = h.get(size, timeout, nil)
	}
	if err != nil || h.close {
		h.c.Close()
		return nil, stale, err
	}
	return h, stale, nil
}

// isStale reports whether err is that of a connection which the far end closed
// while it was idle: nothing of an answer has come.
func (h *hconn) isStale(err error) bool {
	return !h.heard && (err == io.EOF || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE))
}

// httpGets is the closed loop of small GETs.
func httpGets(t target, conc int, size int64, dur time.Duration, newConn bool, timeout time.Duration) tally {
	end := time.Now().Add(dur)
	return workers(conc, func(_ int, tl *tally) {
		var h *hconn
		tl.lat = make([]int64, 0, 8192)
		for time.Now().Before(end) {
			t0 := time.Now()
			var stale bool
			var err error
			h, stale, err = getOver(h, t, size, timeout)
			if stale {
				tl.stale++
			}
			if err != nil {
				tl.fail(err)
				time.Sleep(5 * time.Millisecond)
				continue
			}
			tl.ok++
			tl.bytes += size
			tl.lat = append(tl.lat, int64(time.Since(t0)))
			if newConn && h != nil {
				h.c.Close()
				h = nil
			}
		}
		if h != nil {
			h.c.Close()
		}
	})
}

// httpBulk repeats downloads (or uploads) of size bytes until dur is over; the
// transfers under way are finished, and the time counts to the last byte.
func httpBulk(t target, conc int, size int64, dur time.Duration, up bool, timeout time.Duration) (tally, time.Duration) {
	start := time.Now()
	end := start.Add(dur)
	tl := workers(conc, func(i int, tl *tally) {
		var h *hconn
		for time.Now().Before(end) {
			var err error
			t0 := time.Now()
			fresh := h == nil
			if fresh {
				h, err = dialHTTP(t, 5*time.Second, 256<<10)
			}
			if err == nil {
				if up {
					err = h.post(size, timeout)
				} else {
					err = h.get(size, timeout, nil)
				}
			}
			if err != nil {
				tl.fail(err)
				if h != nil {
					h.c.Close()
					h = nil
				}
				time.Sleep(20 * time.Millisecond)
				continue
			}
			tl.ok++
			tl.bytes += size
			tl.lat = append(tl.lat, int64(time.Since(t0)))
			if h.close {
				h.c.Close()
				h = nil
			}
		}
		if h != nil {
			h.c.Close()
		}
	})
	return tl, time.Since(start)
}
