package requests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// A Conn is the dialler's end. Its methods are safe for concurrent use.
type Conn struct {
	core
	id   id
	keys *keys
	kind Kind
	opts ConnOptions
	text bool // frames come as server-sent events

	ctx    context.Context // ends with the conn
	cancel context.CancelFunc
	wg     sync.WaitGroup // of goroutines; none begins once the conn has ended

	// Guarded by core.mu.
	number   uint64 // of the last up
	ups      int    // under way
	told     uint64 // what the server has been told of in.next
	polls    int    // goroutines that poll
	asked    uint64 // number of the last poll
	answered []uint64
	least    uint64 // number below which all polls have been answered
	wait     time.Duration
	streams  uint64
	upFault  fault
	dnFault  fault
}

// A fault is how long requests in one direction have failed, without one that
// did not.
type fault struct{ since time.Time }

// errFatal says that trying again is of no use.
type errFatal struct{ error }

func (e errFatal) Unwrap() error { return e.error }

// errBusy is a server's answer that has no room for more at the moment.
var errBusy = errors.New("the server is busy")

// failedLocked takes note of a request that failed, and ends the conn if that
// has gone on for long.
func (c *Conn) failedLocked(f *fault, err error) {
	if errors.Is(err, errBusy) {
		return
	}
	now := time.Now()
	if f.since.IsZero() {
		f.since = now
	}
	if errors.As(err, new(errFatal)) || now.Sub(f.since) > giveUpAfter {
		c.breakLocked(err)
	}
}

// pauses are the waits between attempts at one request.
var pauses = [...]time.Duration{0, 20, 50, 100, 200, 400, 800}

// pause waits before the next attempt. It reports false if the conn has ended.
func (c *Conn) pause(attempt int) bool {
	t := time.NewTimer(pauses[min(attempt, len(pauses)-1)] * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return c.ctx.Err() == nil
	case <-c.ctx.Done():
		return false
	}
}

// request makes one. Its body, if it has one, is whole in body.
func (c *Conn) request(ctx context.Context, h head, body []byte) (*http.Response, error) {
	h.id = c.id
	method := http.MethodPost
	if h.op == opStream {
		method = http.MethodGet
	}
	r, err := http.NewRequestWithContext(ctx, method, c.opts.URL, bytes.NewReader(body))
	if err != nil {
		return nil, errFatal{err}
	}
	if c.opts.Host != "" {
		r.Host = c.opts.Host
	}
	r.Header = c.opts.Header.Clone()
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	r.Header.Set(Header, h.encode(c.keys.requests))
	r.Header["Idempotency-Key"] = nil // tells the transport that it may repeat r; not sent
	if len(body) > 0 {
		r.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := c.opts.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10))
	resp.Body.Close()
	code := resp.Header.Get(headerError)
	err = fmt.Errorf("server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	switch {
	case resp.StatusCode == http.StatusNotFound && code == codeUnknown:
		return nil, errFatal{errGone}
	case code == codeBusy:
		return nil, errBusy
	case resp.StatusCode == http.StatusRequestEntityTooLarge, resp.StatusCode/100 == 4 && code == codeBad:
		return nil, errFatal{err}
	}
	return nil, err
}

// sendLocked starts what is to be sent.
func (c *Conn) sendLocked() {
	if c.ended() {
		return
	}
	for {
		waits := c.out.end - c.out.base
		switch {
		case c.ups >= maxUps:
			return
		case waits == 0 && (c.ups > 0 || c.in.next-c.told < windowMin || c.closed):
			return
		case c.ups >= 2 && waits < windowMin:
			return // with what comes next, when an answer has come
		}
		c.startUpLocked()
	}
}

// ended reports whether no goroutine may begin any more.
func (c *Conn) ended() bool { return c.err != nil || c.ctx.Err() != nil }

// startUpLocked sends what waits, as far as it fits into one request, or only
// says what has arrived here.
func (c *Conn) startUpLocked() {
	c.number++
	number, position := c.number, c.out.base
	size := min(int(c.out.end-c.out.base), maxUp)
	var buf *buffer
	if size > 0 {
		plain := getBuffer(size)
		for n := 0; n < size; {
			n += copy(plain.b[n:], c.out.piece(position+uint64(n), size-n))
		}
		f := frame{position: position, number: number, data: plain.b}
		buf = getBuffer(size + frameOverhead)
		f.seal(buf.b[:0], c.keys.up, number)
		plain.release()
		c.out.trim(position + uint64(size))
		c.flying += size
	}
	c.ups++
	c.wg.Go(func() { c.up(number, position, size, buf) })
}

// up makes one request until it is answered.
func (c *Conn) up(number, position uint64, size int, buf *buffer) {
	var err error
	for attempt := 0; ; attempt++ {
		if err = c.tryUp(number, position, size, buf); err == nil || !c.pause(attempt) {
			break
		}
		c.mu.Lock()
		c.failedLocked(&c.upFault, err)
		ended := c.ended()
		c.mu.Unlock()
		if ended {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ups--
	c.flying -= size
	if err == nil {
		c.upFault = fault{}
		c.window.arrived(position + uint64(size))
	}
	c.writable.Broadcast()
	c.sendLocked()
}

func (c *Conn) tryUp(number, position uint64, size int, buf *buffer) error {
	ctx, cancel := context.WithTimeout(c.ctx, upTimeout)
	defer cancel()
	c.mu.Lock()
	h := head{op: opUp, number: number, received: c.in.next, position: position, size: uint32(size)}
	c.told = max(c.told, h.received)
	c.mu.Unlock()
	var body []byte
	if buf != nil {
		body = buf.b
	}
	resp, err := c.request(ctx, h, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, b, err := readFrame(resp.Body, c.keys.down, number, 0)
	if err != nil {
		return err
	}
	b.release()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 1)) // the conn can be used again
	return nil
}

// Close ends the conn, when the other side has what was written, or has taken
// none of it for half a second. A window of it takes some requests, and so Close
// some seconds at most.
func (c *Conn) Close() error {
	c.mu.Lock()
	first := c.closeLocked()
	if first && c.err == nil {
		late := time.AfterFunc(closeGrace, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.breakLocked(errors.New("closed"))
		})
		defer late.Stop()
		for left := c.leftLocked(); c.err == nil && (c.ups > 0 || c.out.end > c.out.base); {
			c.writable.Wait()
			if now := c.leftLocked(); now < left {
				left = now
				late.Reset(closeGrace)
			}
		}
		if c.err == nil {
			h := head{op: opEnd, received: c.in.next, position: c.out.end}
			c.mu.Unlock()
			c.end(h)
			c.mu.Lock()
		}
	}
	c.cancel()
	c.mu.Unlock()
	c.wg.Wait()
	if first && c.opts.Close != nil {
		c.opts.Close()
	}
	return nil
}

// leftLocked returns how many bytes the other side is not known to have.
func (c *Conn) leftLocked() int { return int(c.out.end-c.out.base) + c.flying }

// end tells the server that nothing follows.
func (c *Conn) end(h head) {
	ctx, cancel := context.WithTimeout(c.ctx, closeGrace)
	defer cancel()
	if resp, err := c.request(ctx, h, nil); err == nil {
		resp.Body.Close()
	}
}
