package httpwatch

import (
	"bytes"
	"sync"
	"time"

	"adit/internal/http1"
)

// A half is where one direction of a conn stands.
type half struct {
	state   state
	left    int64 // bytes of the body; inBody
	chunks  http1.ChunkReader
	head    []byte // the beginning of a head that has not arrived whole
	scanner http1.Scanner
}

type state uint8

const (
	inHead   state = iota
	inBody         // of known length
	inChunks       // of the chunked coding
	untilEnd       // of the conn
	raw            // after an upgrade
)

// find returns the head that ends in p, with what came before, or nil if it does
// not. The head is valid until the next call.
func (h *half) find(p []byte, scan func(*http1.Scanner, []byte) (int, error)) (head, rest []byte, err error) {
	buf, had := p, len(h.head)
	if had > 0 {
		h.head = append(h.head, p[:min(len(p), maxHead-had)]...)
		buf = h.head
	}
	n, err := scan(&h.scanner, buf)
	switch {
	case err != nil:
		return nil, nil, err
	case n > maxHead:
		return nil, nil, errHeadTooLarge
	case n > 0:
		h.head, h.scanner = nil, http1.Scanner{}
		return buf[:n], p[n-had:], nil
	case len(buf) >= maxHead:
		return nil, nil, errHeadTooLarge
	case had == 0:
		h.head = bytes.Clone(p)
	}
	return nil, nil, nil
}

// begin is at the start of a body.
func (h *half) begin(f http1.Framing, length int64) {
	h.left, h.chunks = length, http1.ChunkReader{}
	switch f {
	case http1.NoBody:
		h.state = inHead
	case http1.Length:
		h.state = inBody
	case http1.Chunked:
		h.state = inChunks
	case http1.UntilClose:
		h.state = untilEnd
	}
}

// body skips what p has of a body: n bytes of content. done says that the body
// ends before rest.
func (h *half) body(p []byte) (n int64, rest []byte, done bool, err error) {
	switch h.state {
	case inBody:
		n = min(int64(len(p)), h.left)
		h.left -= n
		rest, done = p[n:], h.left == 0
	case inChunks:
		for rest = p; len(rest) > 0 && !h.chunks.Done(); {
			var data []byte
			if data, rest, err = h.chunks.Next(rest); err != nil {
				return n, nil, false, err
			}
			n += int64(len(data))
		}
		done = h.chunks.Done()
	default:
		n = int64(len(p))
	}
	if done {
		h.begin(http1.NoBody, 0)
	}
	return n, rest, done, nil
}

func (w *Watcher) requestLocked(p []byte) error {
	for len(p) > 0 {
		if w.req.state != inHead {
			n, rest, _, err := w.req.body(p)
			w.latest.Received += n
			if err != nil {
				return err
			}
			p = rest
			continue
		}
		if w.upgrading {
			return errHasty
		}
		if len(w.req.head) == 0 && (p[0] == '\r' || p[0] == '\n') {
			p = p[1:] // servers are to overlook an empty line (RFC 9112, section 2.2)
			continue
		}
		head, rest, err := w.req.find(p, (*http1.Scanner).Request)
		if err != nil {
			return err
		}
		if head != nil {
			err = w.beginLocked(head)
		}
		if err != nil {
			return err
		}
		p = rest
	}
	return nil
}

// Heads are parsed in these, which hold no memory while there are none.
var (
	requests  = sync.Pool{New: func() any { return new(http1.Request) }}
	responses = sync.Pool{New: func() any { return new(http1.Response) }}
)

// beginLocked begins an exchange.
func (w *Watcher) beginLocked(head []byte) error {
	r := requests.Get().(*http1.Request)
	defer func() {
		clear(r.Fields) // they point into what is not ours to keep
		*r = http1.Request{Fields: r.Fields}
		requests.Put(r)
	}()
	if err := r.Parse(head, limits); err != nil {
		return err
	}
	if len(w.pending) == maxPending {
		return errPending
	}
	w.latest = &Exchange{
		ID:     lastID.Add(1),
		Begin:  time.Now(),
		Method: string(r.Method[:min(len(r.Method), maxMethod)]),
		Target: string(r.Target[:min(len(r.Target), maxTarget)]),
		Host:   string(r.Host),
	}
	w.pending = append(w.pending, w.latest)
	w.upgrading = r.Upgrade != nil
	w.req.begin(r.Framing, r.Length)
	w.events = append(w.events, *w.latest)
	return nil
}

func (w *Watcher) responseLocked(p []byte) error {
	if len(p) == 0 && w.resp.state == untilEnd {
		w.endLocked(false)
		return errOver
	}
	begun := false // the oldest exchange has a status that is not told yet
	for len(p) > 0 {
		if len(w.pending) == 0 {
			return errUnasked
		}
		e := w.pending[0]
		if w.resp.state != inHead {
			n, rest, done, err := w.resp.body(p)
			e.Sent += n
			if err != nil {
				return err
			}
			p = rest
			if done {
				w.endLocked(false)
				begun = false
			}
			continue
		}
		head, rest, err := w.resp.find(p, (*http1.Scanner).Response)
		if err != nil {
			return err
		}
		if head != nil {
			begun, err = w.answerLocked(e, head)
		}
		if err != nil {
			return err
		}
		p = rest
	}
	if begun {
		w.events = append(w.events, *w.pending[0])
	}
	return nil
}

// answerLocked takes the head of a response to e. It reports whether more
// follows of a response that is not an interim one.
func (w *Watcher) answerLocked(e *Exchange, head []byte) (begun bool, err error) {
	r := responses.Get().(*http1.Response)
	defer func() {
		clear(r.Fields)
		*r = http1.Response{Fields: r.Fields}
		responses.Put(r)
	}()
	if err := r.Parse(head, []byte(e.Method), limits); err != nil {
		return false, err
	}
	switch {
	case r.Status == 101:
		if w.latest != e {
			return false, errHasty
		}
		e.Upgraded = true
		w.req.state, w.resp.state = raw, raw
	case r.Status < 200:
		return false, nil
	default:
		w.resp.begin(r.Framing, r.Length)
	}
	if w.latest == e {
		w.upgrading = false
	}
	e.Status, e.Duration = r.Status, time.Since(e.Begin)
	if w.resp.state == inHead {
		w.endLocked(false)
		return false, nil
	}
	return true, nil
}
