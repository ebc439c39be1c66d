package forest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/yamux"

	"adit/tunnel"
)

// maxStreams bounds the streams of one session at the agent.
const maxStreams = 1 << 16

// maxRefusal bounds what is read of the text that a server refuses with.
const maxRefusal = 1 << 10

// A refusal is a server's answer to CONNECT that is no session.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.status, e.text)
}

// An agentSession is one connection to a server, at the agent.
type agentSession struct {
	conn     *muxConn
	mux      *yamux.Session
	control  *yamux.Stream
	features features
}

// connect runs the handshake on conn, which the caller has dialled, and closes
// conn if it fails. headers are those that say who the agent is, as lines.
func connect(ctx context.Context, conn net.Conn, headers string) (*agentSession, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn.SetDeadline(time.Now().Add(handshakeTime))
	s, err := handshake(conn, headers)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if !stop() {
		s.mux.Close()
		return nil, ctx.Err()
	}
	conn.SetDeadline(time.Time{})
	return s, nil
}

func handshake(conn net.Conn, headers string) (*agentSession, error) {
	head := "CONNECT " + controlPath + "/ HTTP/1.1\r\n" +
		"Host: " + conn.RemoteAddr().String() + "\r\n" +
		"User-Agent: Go-http-client/1.1\r\n" + headers +
		headerFeatures + ": " + ourFeatures.String() + "\r\n\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		return nil, fmt.Errorf("CONNECT: %w", err)
	}
	br := bufio.NewReader(&io.LimitedReader{R: conn, N: 64 << 10})
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fmt.Errorf("answer to CONNECT: %w", err)
	}
	if resp.StatusCode != http.StatusOK || resp.Status != "200 "+connected {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
		resp.Body.Close()
		return nil, &refusal{resp.StatusCode, strings.Join(strings.Fields(string(text)), " ")}
	}
	if br.Buffered() > 0 {
		return nil, errors.New("the server sent frames before the first one of the agent")
	}
	f := parseFeatures(resp.Header.Values(headerFeatures)).and(ourFeatures)
	mc := newMuxConn(conn, nil)
	mux, err := yamux.Client(mc, muxConfig(f))
	if err != nil {
		return nil, err
	}
	control, err := mux.OpenStream()
	if err == nil {
		control.SetDeadline(time.Now().Add(handshakeTime))
		if _, err = io.WriteString(control, helloWord); err == nil {
			err = readWord(control, okWord)
		}
	}
	if err != nil {
		mux.Close()
		return nil, err
	}
	control.SetDeadline(time.Time{})
	return &agentSession{conn: mc, mux: mux, control: control, features: f}, nil
}

// A request is what a server asks a stream for.
type request struct {
	message
	stream *asked
	busy   bool // there are too many streams
}

// An asked is a stream that the server waits for. To originals there is no other
// answer than its end.
type asked struct {
	*stream
	answers bool // features.answer
}

// accept says that there is an upstream.
func (s *asked) accept() error {
	if !s.answers {
		return nil
	}
	_, err := s.Write([]byte{answerOpen})
	return err
}

// refuse says why there is none, and ends the direction to the server.
func (s *asked) refuse(code tunnel.RefuseCode, reason string) error {
	if s.answers {
		if _, err := s.Write(append([]byte{byte(code)}, reason[:min(len(reason), maxReason)]...)); err != nil {
			return err
		}
	}
	return s.CloseWrite()
}

// run hands each stream to serve, in a goroutine of its own, until the session
// or ctx ends, and waits for all of them. Streams are opened in the order of
// their messages, whatever becomes of them.
func (s *agentSession) run(ctx context.Context, serve func(context.Context, request)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ctx, func() { s.mux.Close() })
	defer stop()
	var wg group
	wg.Go(func() {
		watch(ctx, s.mux, s.conn, func(bool) {})
		cancel(errors.New("the server gives no sign of life"))
	})
	cancel(s.read(ctx, &wg, serve))
	s.mux.Close()
	wg.end()
	return context.Cause(ctx)
}

func (s *agentSession) read(ctx context.Context, wg *group, serve func(context.Context, request)) error {
	r := newMessageReader(s.control)
	for {
		m, err := r.next()
		if err == io.EOF {
			return errors.New("the server ended the control stream")
		}
		if err != nil {
			return fmt.Errorf("control stream: %w", err)
		}
		st, err := s.mux.OpenStream()
		if err != nil {
			return fmt.Errorf("open a stream: %w", err)
		}
		req := request{message: m, stream: &asked{newStream(st, s.conn, s.features, wg, nil), s.features.answer}, busy: s.mux.NumStreams() > maxStreams}
		wg.Go(func() {
			defer req.stream.Close()
			serve(ctx, req)
		})
	}
}
