package wstunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"adit/dialect"
	"adit/session"
	"adit/tunnel"
)

// A sessionTunnel is a client that is adit too. Each stream carries one request.
type sessionTunnel struct {
	s       *session.Session
	id      tunnel.ID
	subject string
	last    atomic.Uint32 // ID of a request
}

var (
	_ tunnel.EarlyOpener  = (*sessionTunnel)(nil)
	_ tunnel.Tunnel       = (*sessionTunnel)(nil)
	_ tunnel.Availability = (*sessionTunnel)(nil)
	_ tunnel.Drainer      = (*sessionTunnel)(nil)
	_ dialect.Registrant  = (*sessionTunnel)(nil)
)

func (t *sessionTunnel) ID() tunnel.ID           { return t.id }
func (t *sessionTunnel) Done() <-chan struct{}   { return t.s.Done() }
func (t *sessionTunnel) Available() bool         { return t.s.Available() }
func (t *sessionTunnel) OnAvailability(f func()) { t.s.OnChange(f) }
func (t *sessionTunnel) Close() error            { return t.s.Close() }
func (t *sessionTunnel) Err() error              { return t.s.Err() }
func (t *sessionTunnel) Streams() int            { return t.s.Streams() }
func (t *sessionTunnel) Drain(reason string)     { t.s.Drain(reason) }

// OneRequest says that each stream is for one request.
func (t *sessionTunnel) OneRequest() {}

// Registered implements dialect.Registrant. The caller closes the session if
// the name cannot be had, and the client tries again.
func (t *sessionTunnel) Registered(dialect.Bound, error) {}

// OpenEarly implements tunnel.EarlyOpener.
func (t *sessionTunnel) OpenEarly(tunnel.StreamInfo) (net.Conn, error) {
	var meta [idSize]byte
	st, err := t.s.Open(putID(meta[:0], uint16(t.last.Add(1)%ids)))
	if err != nil {
		return nil, inTunnel(err)
	}
	return &requestStream{st}, nil
}

// OpenStream does not wait: a client takes all streams.
func (t *sessionTunnel) OpenStream(_ context.Context, info tunnel.StreamInfo) (net.Conn, error) {
	return t.OpenEarly(info)
}

// A requestStream is a stream in the terms of package tunnel.
type requestStream struct{ *session.Stream }

var (
	_ tunnel.HalfCloser = (*requestStream)(nil)
	_ tunnel.Resetter   = (*requestStream)(nil)
)

// OneRequest says that the stream is not to be used for a second request.
func (s *requestStream) OneRequest() {}

func (s *requestStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	return n, inTunnel(err)
}

func (s *requestStream) Write(p []byte) (int, error) {
	n, err := s.Stream.Write(p)
	return n, inTunnel(err)
}

func (s *requestStream) ReadFrom(r io.Reader) (int64, error) {
	n, err := s.Stream.ReadFrom(r)
	return n, inTunnel(err)
}

func (s *requestStream) WriteTo(w io.Writer) (int64, error) {
	n, err := s.Stream.WriteTo(w)
	return n, inTunnel(err)
}

// Reset implements tunnel.Resetter. The client knows one reason alone.
func (s *requestStream) Reset(tunnel.ResetCode, string) error {
	return s.Stream.Reset(resetAborted, "")
}

// inTunnel puts a session's error in the terms of package tunnel.
func inTunnel(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if _, ok := errors.AsType[*session.ResetError](err); ok {
		return &tunnel.ResetError{}
	}
	if _, ok := errors.AsType[*session.RefusedError](err); ok {
		return &tunnel.RefusedError{Code: tunnel.RefuseBusy}
	}
	if _, ok := errors.AsType[net.Error](err); ok { // deadlines
		return err
	}
	switch {
	case errors.Is(err, session.ErrDraining):
		return &tunnel.RefusedError{Code: tunnel.RefuseDraining}
	case errors.Is(err, session.ErrClosed), errors.Is(err, session.ErrLost):
		return fmt.Errorf("%w: %w", tunnel.ErrClosed, err)
	}
	if _, ok := errors.AsType[*session.ProtocolError](err); ok {
		return fmt.Errorf("%w: %w", tunnel.ErrClosed, err)
	}
	return err
}
