package requests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// startPollLocked starts one more goroutine that polls.
func (c *Conn) startPollLocked() {
	if !c.ended() {
		c.polls++
		c.wg.Go(c.poll)
	}
}

// poll asks for bytes, until more goroutines do so than are needed.
func (c *Conn) poll() {
	for {
		c.mu.Lock()
		if c.asked+1 >= max(c.least, 1)+maxAhead/2 {
			c.polls-- // until the slow one among the others has its answer
			c.mu.Unlock()
			return
		}
		c.asked++
		number := c.asked
		c.mu.Unlock()
		n, more, ok := c.fetch(number)
		c.mu.Lock()
		c.answeredLocked(number)
		switch {
		case !ok, c.ended(), n == 0 && !more && c.polls > minPolls:
			c.polls--
			c.mu.Unlock()
			return
		case more && c.polls < maxPolls, c.polls < minPolls:
			c.startPollLocked()
		}
		c.mu.Unlock()
	}
}

// answeredLocked takes note that the server need not keep the answer to a poll.
func (c *Conn) answeredLocked(number uint64) {
	if c.least == 0 {
		c.least = 1
	}
	c.answered = append(c.answered, number)
	for {
		i := slices.Index(c.answered, c.least)
		if i < 0 {
			return
		}
		c.answered = slices.Delete(c.answered, i, i+1)
		c.least++
	}
}

// fetch makes one poll until it is answered. It returns how many bytes came,
// and whether there are more.
func (c *Conn) fetch(number uint64) (n int, more, ok bool) {
	for attempt := 0; ; attempt++ {
		began := time.Now()
		got, moreNow, err := c.tryPoll(number)
		n += got
		if err == nil {
			c.mu.Lock()
			c.dnFault = fault{}
			c.mu.Unlock()
			return n, moreNow, true
		}
		took := time.Since(began)
		c.mu.Lock()
		switch {
		case got > 0:
			attempt = 0
			c.dnFault = fault{}
		case took >= shortestWait && c.err == nil && !errors.As(err, new(errFatal)):
			// Something does not let answers take so long.
			c.wait = max(min(c.wait, took*3/5), shortestWait)
			c.dnFault = fault{}
			attempt = 0
		default:
			c.failedLocked(&c.dnFault, err)
		}
		ended := c.ended()
		c.mu.Unlock()
		if ended || !c.pause(attempt) {
			return n, false, false
		}
	}
}

func (c *Conn) tryPoll(number uint64) (n int, more bool, err error) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.mu.Lock()
	wait := c.wait
	h := head{
		op: opPoll, number: number, received: c.in.next, position: max(c.least, 1),
		size: maxDown, wait: uint32(wait / time.Millisecond),
	}
	c.told = max(c.told, h.received)
	c.mu.Unlock()
	late := time.AfterFunc(wait+bodyTimeout, cancel)
	defer late.Stop()
	resp, err := c.request(ctx, h, nil)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	for {
		f, buf, err := readFrame(resp.Body, c.keys.down, number, frameData)
		if err != nil {
			return n, false, err
		}
		late.Reset(bodyTimeout)
		n += len(f.data)
		if err := c.take(f, buf); err != nil {
			return n, false, err
		}
		if f.flags&flagLast != 0 {
			io.Copy(io.Discard, io.LimitReader(resp.Body, 1)) // the conn can be used again
			return n, f.flags&flagMore != 0, nil
		}
	}
}

// take takes in a frame.
func (c *Conn) take(f frame, buf *buffer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		buf.release()
		return net.ErrClosed
	}
	end := f.position + uint64(len(f.data))
	if !c.tookLocked(piece{f.position, f.data, buf}) {
		c.breakLocked(errors.New("too much has come that others should have preceded"))
		return c.err
	}
	if f.flags&flagEnd != 0 {
		c.finishedLocked(end)
	}
	c.sendLocked()
	return nil
}

// A stream is a long answer.
type stream struct {
	number uint64
	resp   *http.Response
	cancel context.CancelFunc
	r      io.Reader
}

func (s *stream) close() {
	s.cancel()
	s.resp.Body.Close()
}

// openStream asks for a stream, and returns it when the first frame has come.
func (c *Conn) openStream(ctx context.Context) (*stream, error) {
	long, cancel := context.WithCancel(c.ctx)
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	fail := func(err error) (*stream, error) {
		cancel()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	c.mu.Lock()
	c.streams++
	s := &stream{number: c.streams, cancel: cancel}
	h := head{op: opStream, text: c.text, number: s.number, received: c.in.next}
	c.told = max(c.told, h.received)
	c.mu.Unlock()
	var err error
	if s.resp, err = c.request(long, h, nil); err != nil {
		return fail(err)
	}
	s.r = s.resp.Body
	if c.text {
		s.r = newEventReader(s.resp.Body)
	}
	if err = c.takeNext(s); err == nil && !stop() {
		err = context.DeadlineExceeded
	}
	if err != nil {
		s.resp.Body.Close()
		return fail(err)
	}
	return s, nil
}

// takeNext takes in the next frame of a stream.
func (c *Conn) takeNext(s *stream) error {
	f, buf, err := readFrame(s.r, c.keys.down, s.number, frameData)
	if err != nil {
		return err
	}
	return c.take(f, buf)
}

// runStream takes in streams until the conn ends.
func (c *Conn) runStream(s *stream) {
	for {
		began := time.Now()
		var err error
		for err == nil {
			err = c.takeNext(s)
		}
		s.close()
		attempt := 0
		if time.Since(began) < shortestWait {
			attempt = 3 // it may go on like this
		}
		if s = c.nextStream(err, attempt); s == nil {
			return
		}
	}
}

// nextStream replaces a stream that ended with err, and returns nil if the conn
// has ended. attempt is how many have failed already.
func (c *Conn) nextStream(err error, attempt int) *stream {
	for ; ; attempt++ {
		c.mu.Lock()
		over := c.finite && c.in.next >= c.fin
		if !over {
			c.failedLocked(&c.dnFault, fmt.Errorf("the server's answer broke off: %w", err))
		}
		over = over || c.ended()
		c.mu.Unlock()
		if over || !c.pause(attempt) {
			return nil
		}
		ctx, cancel := context.WithTimeout(c.ctx, bodyTimeout)
		var s *stream
		s, err = c.openStream(ctx)
		cancel()
		if err == nil {
			c.mu.Lock()
			c.dnFault = fault{}
			c.mu.Unlock()
			return s
		}
	}
}
