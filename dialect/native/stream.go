package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"adit/session"
	"adit/tunnel"
)

// A stream is a session's stream in the terms of package tunnel.
type stream struct {
	*session.Stream
	info tunnel.StreamInfo // at the agent's side
}

var (
	_ tunnel.Incoming   = (*stream)(nil)
	_ tunnel.HalfCloser = (*stream)(nil)
	_ tunnel.Resetter   = (*stream)(nil)
	_ io.ReaderFrom     = (*stream)(nil)
	_ io.WriterTo       = (*stream)(nil)
)

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	return n, translate(err)
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Stream.Write(p)
	return n, translate(err)
}

func (s *stream) ReadFrom(r io.Reader) (int64, error) {
	n, err := s.Stream.ReadFrom(r)
	return n, translate(err)
}

func (s *stream) WriteTo(w io.Writer) (int64, error) {
	n, err := s.Stream.WriteTo(w)
	return n, translate(err)
}

func (s *stream) Reset(code tunnel.ResetCode, reason string) error {
	return s.Stream.Reset(uint16(code), reason)
}

func (s *stream) Refuse(code tunnel.RefuseCode, reason string) error {
	return s.Stream.Refuse(uint16(code), reason)
}

func (s *stream) Accept() error           { return translate(s.Stream.Accepted()) }
func (s *stream) Info() tunnel.StreamInfo { return s.info }

// An askedStream is one that an agent has opened, as the server sees it.
type askedStream struct {
	stream
	target tunnel.Target
}

var _ tunnel.Asked = (*askedStream)(nil)

func (s *askedStream) Target() tunnel.Target { return s.target }

func (s *askedStream) WaitGivenUp(ctx context.Context) error {
	return translate(s.Stream.WaitGivenUp(ctx))
}

// translate puts a session's error in the terms of package tunnel.
func translate(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	switch e := err.(type) {
	case *session.ResetError:
		return &tunnel.ResetError{Code: tunnel.ResetCode(e.Code), Reason: e.Reason}
	case *session.RefusedError:
		return &tunnel.RefusedError{Code: tunnel.RefuseCode(e.Code), Reason: e.Reason}
	case net.Error: // deadlines
		return err
	}
	if errors.Is(err, session.ErrDraining) {
		return &tunnel.RefusedError{Code: tunnel.RefuseDraining}
	}
	var pe *session.ProtocolError
	if errors.Is(err, session.ErrClosed) || errors.Is(err, session.ErrLost) || errors.As(err, &pe) {
		return fmt.Errorf("%w: %w", tunnel.ErrClosed, err)
	}
	return err
}
