package wstunnel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"adit/internal/wsframe"
)

// A messageClient is a connection to a server of the original's format.
type messageClient struct {
	c    *Client
	conn net.Conn
	r    *wsReader
	w    *wsWriter
	stop func() // waits for the requests
}

// serveMessages serves one connection until it ends.
func (c *Client) serveMessages(ctx context.Context, conn net.Conn, br *bufio.Reader) error {
	m := &messageClient{c: c, conn: conn, w: newWriter(conn, true)}
	m.r = &wsReader{c: conn, br: br, client: true, limit: func() time.Duration { return c.opts.Timeout }, onCtrl: m.control}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, m.w.close)
	defer stop()
	var own sync.WaitGroup
	own.Go(func() {
		m.w.run()
		m.conn.Close()
	})
	own.Go(func() { m.ping(ctx) })
	m.r.alive()
	err := m.read(ctx)
	switch {
	case errors.Is(err, errSilent):
		c.opts.Log.Info("ping timeout, closing WS")
		m.w.sendControl(wsframe.Close, nil)
	case errors.Is(err, errMasking):
		m.w.sendControl(wsframe.Close, closeFrame(wsframe.CloseProtocol))
	}
	cancel() // ends the requests at local servers: nobody takes their answers
	m.w.close()
	cut := time.AfterFunc(lastWrite, func() { conn.Close() })
	own.Wait()
	cut.Stop()
	m.stop()
	return err
}

// ping sends one at once and then three in each time-out, as the server counts
// nothing else.
func (m *messageClient) ping(ctx context.Context) {
	tick := time.NewTicker(m.c.opts.Timeout / 3)
	defer tick.Stop()
	for {
		m.w.sendControl(wsframe.Ping, nil)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *messageClient) control(op byte, p []byte) {
	switch op {
	case wsframe.Ping:
		m.w.sendControl(wsframe.Pong, p)
	case wsframe.Pong:
		m.c.opts.OnAlive()
	case wsframe.Close:
		m.w.sendControl(wsframe.Close, p[:min(len(p), 2)])
	}
}

// A job is a request that has come, or comes.
type job struct {
	id    uint16
	whole []byte // if it is small
	spool *spool // if not
}

// read takes requests in and starts them.
func (m *messageClient) read(ctx context.Context) error {
	w := newWorkers(func(j job) { m.handle(ctx, j) })
	m.stop = w.wait
	for {
		if err := m.r.next(); err != nil {
			return err
		}
		id, err := m.r.readID()
		if err != nil {
			return err
		}
		if m.r.fin && m.r.rem <= smallBody {
			whole := make([]byte, m.r.rem)
			if _, err := io.ReadFull(m.r, whole); err != nil {
				return err
			}
			if err := m.r.end(); err != nil {
				return err
			}
			w.give(job{id: id, whole: whole})
			continue
		}
		if err := m.readLong(id, w); err != nil {
			return err
		}
	}
}

// readLong reads a message that is handled while it comes.
func (m *messageClient) readLong(id uint16, w *workers[job]) error {
	s := newSpool(m.c.rooms)
	defer s.free()
	s.hold() // for the handler
	w.give(job{id: id, spool: s})
	to := &answerWriter{s: s, left: MaxMessage}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	if _, err := io.CopyBuffer(to, struct{ io.Reader }{m.r}, *buf); err != nil {
		s.finish(errEnded)
		return err
	}
	s.finish(nil)
	return nil
}

// handle carries one request to a local server, and its answer back as soon as
// that is whole: a message that was begun would hold up all others.
func (m *messageClient) handle(ctx context.Context, j job) {
	limited := &io.LimitedReader{N: maxAnswerHead}
	e := errands.Get().(*errand)
	stop := context.AfterFunc(ctx, func() {
		e.cut()
		if j.spool != nil {
			j.spool.finish(errEnded)
		}
	})
	br := readers.Get().(*bufio.Reader)
	defer func() {
		if stop() {
			e.done() // otherwise it may still be cut
		}
		br.Reset(nil)
		readers.Put(br)
	}()
	if j.spool != nil {
		defer j.spool.free()
		limited.R = &spoolReader{s: j.spool}
	} else {
		limited.R = bytes.NewReader(j.whole)
	}
	br.Reset(limited)
	if !m.c.local.acquire(ctx) {
		return
	}
	defer m.c.local.release()
	plain, err := e.read(br, m.c.local.plain)
	switch {
	case errors.Is(err, errEnded): // nobody takes an answer
	case err != nil:
		m.sendOwn(j.id, ownAnswer(http.StatusBadRequest, "Cannot parse request", "HTTP/1.1"))
	case plain:
		m.handleErrand(ctx, j.id, e)
	default:
		limited.N = 1 << 62
		m.handleOther(ctx, j.id, br)
	}
}

// handleErrand carries a plain request.
func (m *messageClient) handleErrand(ctx context.Context, id uint16, e *errand) {
	own, err := e.run(ctx, m.c.local, id)
	switch {
	case err != nil:
		return
	case own != nil:
		m.sendResponse(ctx, id, own, "HTTP/1.1")
		return
	}
	if e.length <= smallBody {
		at := len(e.out)
		e.out = append(e.out, make([]byte, e.length)...)
		_, err := io.ReadFull(e.conn.br, e.out[at:])
		e.finish(m.c.local.direct, err == nil)
		if err != nil {
			m.sendFailure(ctx, id, unexpectedEnd(err), "HTTP/1.1")
			return
		}
		m.w.send(&outgoing{id: id, head: bytes.Clone(e.out)})
		return
	}
	limit := min(m.c.opts.MaxBody+maxAnswerHead, MaxMessage-idSize)
	if int64(len(e.out))+e.length > limit {
		e.finish(m.c.local.direct, false)
		m.sendFailure(ctx, id, errTooLarge, "HTTP/1.1")
		return
	}
	out := newSpool(m.c.rooms)
	defer out.free()
	_, err = out.Write(e.out)
	if err == nil {
		_, err = io.CopyN(out, e.conn.br, e.length)
	}
	e.finish(m.c.local.direct, err == nil)
	if err != nil {
		m.sendFailure(ctx, id, unexpectedEnd(err), "HTTP/1.1")
		return
	}
	m.answer(id, out)
}

// handleOther carries any other request.
func (m *messageClient) handleOther(ctx context.Context, id uint16, br *bufio.Reader) {
	req, err := http.ReadRequest(br)
	if err != nil {
		m.sendOwn(id, ownAnswer(http.StatusBadRequest, "Cannot parse request", "HTTP/1.1"))
		return
	}
	m.sendResponse(ctx, id, m.c.local.do(ctx, id, req, false), req.Proto)
}

// sendResponse sends an answer, and closes its body.
func (m *messageClient) sendResponse(ctx context.Context, id uint16, resp *http.Response, proto string) {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body.Close()
		resp = ownAnswer(http.StatusBadGateway, "Local server switched protocols, which this tunnel cannot", proto)
	}
	out := newSpool(m.c.rooms)
	defer out.free()
	err := resp.Write(&limitedWriter{w: out, left: min(m.c.opts.MaxBody+maxAnswerHead, MaxMessage-idSize)})
	resp.Body.Close()
	if err != nil {
		m.sendFailure(ctx, id, err, proto)
		return
	}
	m.answer(id, out)
}

// sendFailure answers in place of an answer that broke off.
func (m *messageClient) sendFailure(ctx context.Context, id uint16, err error, proto string) {
	if ctx.Err() != nil {
		return
	}
	text := fmt.Sprintf("read the answer's body: %v", err)
	if errors.Is(err, errTooLarge) {
		text = "Answer is larger than the tunnel can carry (see -max-body)"
	}
	m.c.opts.Log.Error("HTTP request error", "id", requestID(id), "err", text)
	m.sendOwn(id, ownAnswer(http.StatusBadGateway, text, proto))
}

// sendOwn sends an answer that the client makes itself.
func (m *messageClient) sendOwn(id uint16, own *http.Response) {
	var b bytes.Buffer
	own.Write(&b)
	m.w.send(&outgoing{id: id, head: b.Bytes()})
}

// answer queues what is in s.
func (m *messageClient) answer(id uint16, s *spool) {
	s.finish(nil)
	msg := &outgoing{id: id, body: s}
	if s.len() <= smallBody {
		msg.head = make([]byte, s.len())
		io.ReadFull(&spoolReader{s: s}, msg.head)
		msg.body = nil
	}
	m.w.send(msg)
}
