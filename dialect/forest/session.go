package forest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"adit/tunnel"
)

// maxAsked bounds the visitors of one agent that wait for a stream.
const maxAsked = 4096

var errNoAnswer = errors.New("forest: the agent opened no stream in time")

// A session is one agent's connection, at the server. It is a tunnel.
type session struct {
	id       tunnel.ID
	claim    claim
	features features
	remote   string
	started  time.Time
	conn     *muxConn
	mux      *yamux.Session
	control  *yamux.Stream

	asks    chan *place // for the writer, in the order of the messages
	done    chan struct{}
	ended   chan struct{} // closed when run has returned
	drains  group         // of streams that are closed
	streams atomic.Int64
	doubt   atomic.Bool // the agent has been silent for suspectAfter

	mu     sync.Mutex // guards the fields below
	places []*place   // messages that are written, and not answered by a stream
}

var _ tunnel.Tunnel = (*session)(nil)

// A place is what a visitor has in the queue for streams. It is kept by those
// who gave up, since order is all that links a stream to its message.
type place struct {
	service string
	got     chan *yamux.Stream // is sent the stream
	gone    chan struct{}      // closed when nobody waits for it
}

// acceptSession runs the handshake on a connection whose CONNECT has been
// answered, within handshakeTime. The caller calls run, and closes the session.
// It closes conn if it fails.
func acceptSession(conn *muxConn, c claim, f features) (*session, error) {
	mux, err := yamux.Server(conn, muxConfig(f))
	if err != nil {
		conn.Close()
		return nil, err
	}
	fail := func(err error) (*session, error) {
		mux.GoAway() // as the original does
		mux.Close()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	control, err := mux.AcceptStreamWithContext(ctx)
	if err != nil {
		return fail(fmt.Errorf("no control stream: %w", err))
	}
	control.SetDeadline(time.Now().Add(handshakeTime))
	if err := readWord(control, helloWord); err != nil {
		return fail(err)
	}
	if _, err := io.WriteString(control, okWord); err != nil {
		return fail(err)
	}
	control.SetDeadline(time.Time{})
	return &session{
		id:       tunnel.ID(c.id),
		claim:    c,
		features: f,
		remote:   conn.RemoteAddr().String(),
		started:  time.Now(),
		conn:     conn,
		mux:      mux,
		control:  control,
		asks:     make(chan *place, maxAsked),
		done:     make(chan struct{}),
		ended:    make(chan struct{}),
	}, nil
}

// run serves the session until it ends, and returns why. It owns all goroutines
// of the session. Visitors may come once it has begun, or before.
func (s *session) run(parent context.Context) error {
	defer close(s.ended)
	defer s.drains.end()
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(ctx, func() { s.mux.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		watch(ctx, s.mux, s.conn, s.doubt.Store)
		cancel(errors.New("the agent gives no sign of life"))
	})
	wg.Go(func() { cancel(s.read()) })
	wg.Go(func() { cancel(s.accept()) })
	wg.Go(func() { cancel(s.write(ctx)) })
	<-ctx.Done()
	close(s.done)
	s.mux.Close()
	wg.Wait()
	return context.Cause(ctx)
}

// write writes a message for each place, and puts it in the queue in the same
// step. A failure ends the session: a place without a message would give
// everybody behind it the stream of another.
func (s *session) write(ctx context.Context) error {
	var buf []byte
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case p := <-s.asks:
			var err error
			if buf, err = s.enqueue(buf[:0], p); err != nil {
				return err
			}
			s.control.SetWriteDeadline(time.Now().Add(deadAfter))
			if _, err := s.control.Write(buf); err != nil {
				return fmt.Errorf("write a message: %w", err)
			}
		}
	}
}

// enqueue appends the messages of p and of those who wait behind it, as long as
// they are small together.
func (s *session) enqueue(buf []byte, p *place) ([]byte, error) {
	for {
		var err error
		if buf, err = appendMessage(buf, p.service, s.claim.numbered()); err != nil {
			return nil, err // OpenStream has checked it
		}
		s.mu.Lock()
		s.places = append(s.places, p)
		s.mu.Unlock()
		if len(buf) >= maxFrameOld/2 {
			return buf, nil
		}
		select {
		case p = <-s.asks:
		default:
			return buf, nil
		}
	}
}

// accept hands streams to places in the order of both.
func (s *session) accept() error {
	for {
		st, err := s.mux.AcceptStream()
		if err != nil {
			return err
		}
		s.mu.Lock()
		if len(s.places) == 0 {
			s.mu.Unlock()
			return errors.New("the agent opened a stream that nobody asked for")
		}
		p := s.places[0]
		s.places[0] = nil
		s.places = s.places[1:]
		s.mu.Unlock()
		select {
		case p.got <- st:
		case <-p.gone:
			st.Close()
		}
	}
}

// read reads what an agent writes on the control stream, which is nothing that
// means anything, as far as originals go.
func (s *session) read() error {
	r := newMessageReader(s.control)
	for {
		if _, err := r.next(); err != nil {
			if err == io.EOF {
				return errors.New("the agent ended the control stream")
			}
			return fmt.Errorf("control stream: %w", err)
		}
	}
}

func (s *session) ID() tunnel.ID { return s.id }

// over reports whether the session has ended.
func (s *session) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *session) Done() <-chan struct{} { return s.done }

// Close ends the session, and waits until run has returned.
func (s *session) Close() error {
	select {
	case <-s.done:
	default:
		s.mux.GoAway()
		s.mux.Close()
	}
	<-s.ended
	return nil
}

// OpenStream asks for a stream to info.Service, the name of a service or the
// number of a port. Agents are told nothing else of info.
func (s *session) OpenStream(ctx context.Context, info tunnel.StreamInfo) (net.Conn, error) {
	if _, err := appendMessage(nil, info.Service, s.claim.numbered()); err != nil {
		return nil, &tunnel.RefusedError{Code: tunnel.RefuseUnknownService, Reason: err.Error()}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errNoAnswer)
	defer cancel()
	s.mu.Lock()
	full := len(s.places) >= maxAsked
	s.mu.Unlock()
	if full {
		return nil, &tunnel.RefusedError{Code: tunnel.RefuseBusy, Reason: "the agent opens no streams"}
	}
	p := &place{service: info.Service, got: make(chan *yamux.Stream), gone: make(chan struct{})}
	defer close(p.gone)
	select {
	case s.asks <- p:
	case <-s.done:
		return nil, tunnel.ErrClosed
	default:
		return nil, &tunnel.RefusedError{Code: tunnel.RefuseBusy, Reason: "too many visitors wait for the agent"}
	}
	select {
	case st := <-p.got:
		s.streams.Add(1)
		c := newStream(st, s.conn, s.features, &s.drains, func() { s.streams.Add(-1) })
		c.hold = !s.features.halfClose
		if err := s.answered(ctx, c); err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	case <-s.done:
		return nil, tunnel.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// answered reads the agent's answer, if it is to give one.
func (s *session) answered(ctx context.Context, c *stream) error {
	if !s.features.answer {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	var code [1]byte
	defer stop()
	_, err := io.ReadFull(c, code[:])
	if err == nil && code[0] != answerOpen {
		reason, _ := io.ReadAll(io.LimitReader(c, maxReason)) // what there is of it
		return &tunnel.RefusedError{Code: tunnel.RefuseCode(code[0]), Reason: string(reason)}
	}
	if !stop() && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	if s.mux.IsClosed() { // s.done follows
		return tunnel.ErrClosed
	}
	return &tunnel.RefusedError{Code: tunnel.RefuseInternal}
}
