package wstunnel

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"adit/internal/wsframe"
)

// A messageLink is a client that speaks the original's format.
type messageLink struct {
	t    *Tunnel
	conn net.Conn
	r    *wsReader
	w    *wsWriter
}

func newMessageLink(t *Tunnel, conn net.Conn, br *bufio.Reader) *messageLink {
	l := &messageLink{t: t, conn: conn, w: newWriter(conn, false)}
	l.r = &wsReader{c: conn, br: br, limit: func() time.Duration { return t.opts.PingTimeout }, onCtrl: l.control}
	return l
}

func (l *messageLink) available() bool { return true }

// start implements link.
func (l *messageLink) start(ex *exchange) bool {
	if !ex.ready {
		ex.tellLocked(event{granted: l})
		return true
	}
	if int64(len(ex.head)) > MaxMessage-idSize {
		ex.tellLocked(event{err: errTooLarge})
		return true
	}
	s := l.t.open[ex.id]
	ex.on, s.on = l, l
	ex.out = &outgoing{id: ex.id, head: ex.head, body: ex.body, delivered: func(yes bool) {
		l.t.mu.Lock()
		ex.sent = yes
		l.t.mu.Unlock()
		if yes {
			l.t.sending(ex)
		}
	}}
	if !l.w.send(ex.out) {
		ex.on, ex.out, s.on = nil, nil, nil
		return false
	}
	return true
}

// end closes the link; run returns soon after.
func (l *messageLink) end() {
	l.w.sendControl(wsframe.Close, closeFrame(wsframe.CloseGoingAway))
	l.w.close()
}

func (l *messageLink) control(op byte, p []byte) {
	switch op {
	case wsframe.Ping:
		l.t.alive()
		l.w.sendControl(wsframe.Pong, p)
	case wsframe.Close:
		l.w.sendControl(wsframe.Close, p[:min(len(p), 2)])
	}
}

// run reads answers until the connection ends, and returns why. It owns the
// writer, and closes the connection.
func (l *messageLink) run() error {
	var left []*outgoing
	written := make(chan struct{})
	go func() {
		defer close(written)
		left, _ = l.w.run()
		l.conn.Close() // has read return
	}()
	l.r.alive()
	err := l.read()
	switch {
	case errors.Is(err, errSilent):
		l.w.sendControl(wsframe.Close, nil)
	case errors.Is(err, errMasking):
		l.w.sendControl(wsframe.Close, closeFrame(wsframe.CloseProtocol))
	}
	l.w.close()
	cut := time.AfterFunc(lastWrite, func() { l.conn.Close() }) // it may be stuck in a frame
	<-written
	cut.Stop()
	l.t.removeLink(l, left)
	return err
}

// read takes messages in.
func (l *messageLink) read() error {
	for {
		if err := l.r.next(); err != nil {
			return err
		}
		id, err := l.r.readID()
		if err != nil {
			return err
		}
		ex := l.t.answered(l, id)
		if ex == nil {
			if _, err := io.Copy(io.Discard, l.r); err != nil {
				return err
			}
			continue
		}
		if err := l.take(ex); err != nil {
			return err
		}
	}
}

// take reads the rest of a message as the answer to ex.
func (l *messageLink) take(ex *exchange) error {
	s := newSpool(l.t.rooms)
	if l.r.fin && l.r.rem <= smallBody {
		s.mem = make([]byte, 0, l.r.rem)
	}
	s.hold()
	defer s.free()
	l.t.tell(ex, event{answer: s})
	to := &answerWriter{s: s, left: l.t.opts.MaxBody + maxAnswerHead}
	buf := buffers.Get().(*[]byte)
	_, err := io.CopyBuffer(to, struct{ io.Reader }{l.r}, *buf)
	buffers.Put(buf)
	if err != nil {
		s.finish(errEnded)
		return err
	}
	s.finish(nil)
	l.t.gotAnswer(ex, s.len())
	return nil
}

// lastWrite is how long a connection that ends may take to say so.
const lastWrite = 2 * time.Second

var buffers = sync.Pool{New: func() any {
	b := make([]byte, 16<<10)
	return &b
}}

// An answerWriter fills a spool. What has no room, or no reader, is read
// nevertheless and dropped, so that the connection goes on.
type answerWriter struct {
	s       *spool
	left    int64
	dropped bool
}

func (w *answerWriter) Write(p []byte) (int, error) {
	if w.dropped {
		return len(p), nil
	}
	var err error
	if w.left -= int64(len(p)); w.left < 0 {
		err = errAnswer
	} else {
		_, err = w.s.Write(p)
	}
	if err != nil {
		w.dropped = true
		w.s.finish(err)
	}
	return len(p), nil
}
