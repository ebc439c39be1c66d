package requests

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// serveUp takes in bytes from the dialler.
func (c *serverConn) serveUp(w http.ResponseWriter, r *http.Request, h *head) {
	rc := http.NewResponseController(w)
	c.mu.Lock()
	ok := c.ackLocked(h.received) // also if there is no room for the rest
	c.mu.Unlock()
	if !ok {
		refuse(w, http.StatusConflict, codeBad)
		return
	}
	if h.size > maxUp || !c.reserve(h, int(h.size)) {
		refuse(w, http.StatusServiceUnavailable, codeBusy)
		return
	}
	defer c.reserve(h, -int(h.size))
	if h.size > 0 {
		rc.SetReadDeadline(time.Now().Add(bodyTimeout))
		f, buf, err := readFrame(r.Body, c.keys.up, h.number, int(h.size))
		if err != nil || len(f.data) != int(h.size) || f.position != h.position || f.number != h.number {
			buf.release()
			refuse(w, http.StatusBadRequest, codeBad)
			return
		}
		rc.SetReadDeadline(time.Time{})
		c.mu.Lock()
		ok := !c.closed && c.tookLocked(piece{f.position, f.data, buf})
		c.mu.Unlock()
		if !ok {
			refuse(w, http.StatusServiceUnavailable, codeBusy)
			return
		}
	}
	c.mu.Lock()
	received := c.in.next
	c.mu.Unlock()
	f := frame{received: received, number: c.nextFrame()}
	b := f.seal(nil, c.keys.down, h.number)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	w.Write(b)
}

// reserve counts n bytes of a request that is being read, and reports whether
// there is memory for it.
func (c *serverConn) reserve(h *head, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 {
		alone := c.ups == 0 && h.position <= c.in.next
		switch {
		case c.closed || c.err != nil:
			return false
		case c.in.waits > maxUnread:
			return false
		case c.server.used.Load()+int64(n) > c.server.memory && !alone:
			return false
		}
	}
	c.ups += n
	c.server.used.Add(int64(n))
	return true
}

// servePoll answers with bytes when there are some.
func (c *serverConn) servePoll(w http.ResponseWriter, r *http.Request, h *head) {
	p, status := c.enterPoll(h)
	if p == nil {
		refuse(w, status, codeBad)
		return
	}
	wait := time.NewTimer(min(time.Duration(h.wait)*time.Millisecond, maxWait))
	defer wait.Stop()
	gone := false
	select {
	case <-p.ready:
	case <-wait.C:
	case <-r.Context().Done():
		gone = true
	}
	c.mu.Lock()
	p.here--
	waiting := slices.Contains(c.waiting, p)
	switch {
	case gone && waiting && p.here == 0:
		delete(c.polls, p.number) // let another one have what comes
		c.waiting = slices.DeleteFunc(c.waiting, func(o *poll) bool { return o == p })
	case !gone && waiting:
		c.assignLocked(p)
	}
	from, to := max(p.from, c.out.base), p.to
	size := c.sizeLocked(from, to)
	c.mu.Unlock()
	if gone {
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", fmt.Sprint(size))
	c.send(w, h.number, from, to)
}

// enterPoll returns the poll that the request stands for.
func (c *serverConn) enterPoll(h *head) (p *poll, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kind != Poll || !c.ackLocked(h.received) || h.position > h.number {
		return nil, http.StatusConflict
	}
	if h.position > c.least {
		c.least = h.position
		for n := range c.polls {
			if n < c.least {
				delete(c.polls, n)
			}
		}
		c.waiting = slices.DeleteFunc(c.waiting, func(p *poll) bool { return p.number < c.least })
	}
	switch {
	case h.number < c.least:
		return nil, http.StatusGone // it was answered, so this is somebody else's repetition
	case h.number >= c.least+maxAhead:
		return nil, http.StatusConflict
	}
	p = c.polls[h.number]
	if p == nil {
		p = &poll{number: h.number, size: uint64(min(max(h.size, 1), maxDown)), ready: make(chan struct{})}
		c.polls[h.number] = p
		i, _ := slices.BinarySearchFunc(c.waiting, p, func(a, b *poll) int { return int(a.number) - int(b.number) })
		c.waiting = slices.Insert(c.waiting, i, p)
		c.serveLocked()
	}
	p.here++
	return p, 0
}

// sizeLocked returns how many bytes the frames take that hold those from
// position from to position to.
func (c *serverConn) sizeLocked(from, to uint64) int {
	size := 0
	for first := true; first || from < to; first = false {
		n := len(c.out.piece(from, int(to-min(from, to))))
		size += n + frameOverhead
		from += uint64(n)
		if n == 0 {
			break
		}
	}
	return size
}

// send answers a poll.
func (c *serverConn) send(w http.ResponseWriter, request, from, to uint64) {
	rc := http.NewResponseController(w)
	buf := getBuffer(bufferSizes[0])
	defer func() { buf.release() }()
	for first := true; first || from < to; first = false {
		if n := to - min(from, to); n > uint64(cap(buf.b)-frameOverhead) && cap(buf.b) < bufferSizes[1] {
			buf.release()
			buf = getBuffer(bufferSizes[1])
		}
		n, _, b := c.sealNext(buf.b[:0], request, from, to)
		if n == 0 && from < to {
			panic(http.ErrAbortHandler) // another answer has brought it meanwhile
		}
		from += uint64(n)
		rc.SetWriteDeadline(time.Now().Add(bodyTimeout))
		if _, err := w.Write(b); err != nil {
			return
		}
	}
	rc.SetWriteDeadline(time.Time{})
}

// sealNext appends the next frame to b, and returns how many bytes it has, and
// whether it says that none follow.
func (c *serverConn) sealNext(b []byte, request, from, to uint64) (n int, last bool, _ []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := frame{position: from, received: c.in.next, number: c.nextFrame()}
	f.data = c.out.piece(from, int(to-min(from, to)))
	end := from + uint64(len(f.data))
	if end >= to {
		f.flags |= flagLast
	}
	if end < c.out.end {
		f.flags |= flagMore
	} else if c.closed || c.err != nil {
		f.flags |= flagEnd
	}
	return len(f.data), f.flags&flagEnd != 0, f.seal(b, c.keys.down, request)
}

// serveStream answers with bytes for as long as the conn lasts, or until the
// dialler comes with another request for them.
func (c *serverConn) serveStream(w http.ResponseWriter, r *http.Request, h *head) {
	c.mu.Lock()
	ok := c.kind == Stream && h.number >= c.stream && c.ackLocked(h.received) && h.received >= c.out.base
	if ok && h.number > c.stream {
		c.stream = h.number
		c.stirLocked() // ends the one before
	}
	c.mu.Unlock()
	if !ok {
		refuse(w, http.StatusConflict, codeBad)
		return
	}
	kind := "application/octet-stream"
	if h.text {
		kind = "text/event-stream"
	}
	w.Header().Set("Content-Type", kind)
	rc := http.NewResponseController(w)
	buf := getBuffer(bufferSizes[1])
	defer buf.release()
	var text []byte
	from := h.received
	for first := true; ; first = false {
		if !first && !c.waitStream(r, h.number, from) {
			return
		}
		c.mu.Lock()
		lost := from < c.out.base
		to := min(c.out.end, from+frameData)
		c.mu.Unlock()
		if lost {
			panic(http.ErrAbortHandler)
		}
		n, last, b := c.sealNext(buf.b[:0], h.number, from, to)
		from += uint64(n)
		if h.text {
			text = appendEvent(text[:0], b)
			b = text
		}
		rc.SetWriteDeadline(time.Now().Add(bodyTimeout))
		if _, err := w.Write(b); err != nil {
			return
		}
		if rc.Flush() != nil || last {
			return
		}
	}
}

// waitStream waits until there are bytes behind from, or the end. It reports
// false if the answer is to end without.
func (c *serverConn) waitStream(r *http.Request, number, from uint64) bool {
	for {
		c.mu.Lock()
		over := c.over || number < c.stream
		some := from < c.out.end || c.closed || c.err != nil
		changed := c.changed
		c.mu.Unlock()
		if over || some {
			return !over
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return false
		}
	}
}

// appendEvent appends a frame in the form of a server-sent event.
func appendEvent(b, frame []byte) []byte {
	b = append(b, "data: "...)
	b = base64.StdEncoding.AppendEncode(b, frame)
	return append(b, "\n\n"...)
}
