package wstunnel

import (
	"bufio"
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
	c       *Client
	conn    net.Conn
	r       *wsReader
	w       *wsWriter
	handles sync.WaitGroup
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
	m.handles.Wait()
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

// read takes requests in and starts them.
func (m *messageClient) read(ctx context.Context) error {
	for {
		if err := m.r.next(); err != nil {
			return err
		}
		id, err := m.r.readID()
		if err != nil {
			return err
		}
		s := newSpool(m.c.rooms)
		s.hold()
		m.handles.Go(func() {
			defer s.free()
			m.handle(ctx, id, s)
		})
		to := &answerWriter{s: s, left: MaxMessage}
		buf := buffers.Get().(*[]byte)
		_, err = io.CopyBuffer(to, struct{ io.Reader }{m.r}, *buf)
		buffers.Put(buf)
		if err != nil {
			s.finish(errEnded)
		} else {
			s.finish(nil)
		}
		s.free()
		if err != nil {
			return err
		}
	}
}

// handle carries one request to a local server, and its answer back as soon as
// that is whole: a message that was begun would hold up all others.
func (m *messageClient) handle(ctx context.Context, id uint16, s *spool) {
	stop := context.AfterFunc(ctx, func() { s.finish(errEnded) })
	defer stop()
	limited := &io.LimitedReader{R: &spoolReader{s: s}, N: maxAnswerHead}
	br := readers.Get().(*bufio.Reader)
	br.Reset(limited)
	defer func() {
		br.Reset(nil)
		readers.Put(br)
	}()
	out := newSpool(m.c.rooms)
	defer out.free()
	req, err := http.ReadRequest(br)
	limited.N = 1 << 62
	if err != nil {
		m.answer(id, out, ownAnswer(http.StatusBadRequest, "Cannot parse request", "HTTP/1.1"))
		return
	}
	if !m.c.local.acquire(ctx) {
		return
	}
	defer m.c.local.release()
	resp := m.c.local.do(ctx, id, req, false)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body.Close()
		resp = ownAnswer(http.StatusBadGateway, "Local server switched protocols, which this tunnel cannot", req.Proto)
	}
	err = resp.Write(&limitedWriter{w: out, left: min(m.c.opts.MaxBody+maxAnswerHead, MaxMessage-idSize)})
	resp.Body.Close()
	if err == nil {
		m.answer(id, out, nil)
		return
	}
	if ctx.Err() != nil {
		return
	}
	text := fmt.Sprintf("read the answer's body: %v", err)
	if errors.Is(err, errTooLarge) {
		text = "Answer is larger than the tunnel can carry (see -max-body)"
	}
	m.c.opts.Log.Error("HTTP request error", "id", requestID(id), "err", text)
	again := newSpool(m.c.rooms)
	defer again.free()
	m.answer(id, again, ownAnswer(http.StatusBadGateway, text, req.Proto))
}

// answer queues what is in s, or own in its place.
func (m *messageClient) answer(id uint16, s *spool, own *http.Response) {
	if own != nil {
		own.Write(s)
	}
	s.finish(nil)
	msg := &outgoing{id: id, body: s}
	if s.len() <= smallBody {
		msg.head = make([]byte, s.len())
		io.ReadFull(&spoolReader{s: s}, msg.head)
		msg.body = nil
	}
	m.w.send(msg)
}
