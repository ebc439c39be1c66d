package agent

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"adit/tunnel"
)

// An observedStream is a stream that somebody looks at, and that no relay
// serves but this program itself.
type observedStream struct {
	tunnel.Incoming
	o *observation

	received, sent atomic.Int64
	broken         atomic.Pointer[error] // the first error of Read or Write
	accepted       atomic.Bool
	end            sync.Once
}

// observed returns in as it is if nobody looks.
func (o *observation) observed(in tunnel.Incoming) tunnel.Incoming {
	if o == nil {
		return in
	}
	return &observedStream{Incoming: in, o: o}
}

func (s *observedStream) Accept() error {
	err := s.Incoming.Accept()
	if err == nil && !s.accepted.Swap(true) {
		s.o.opened(false)
	}
	return err
}

func (s *observedStream) Refuse(code tunnel.RefuseCode, reason string) error {
	s.end.Do(func() { s.o.refused(errors.New(reason)) })
	return s.Incoming.Refuse(code, reason)
}

func (s *observedStream) Read(p []byte) (int, error) {
	n, err := s.Incoming.Read(p)
	if s.received.Add(int64(n)); n > 0 && s.o.http != nil {
		s.o.http.Request(p[:n])
	}
	s.failed(err)
	return n, err
}

func (s *observedStream) Write(p []byte) (int, error) {
	if len(p) > 0 && s.o.http != nil {
		s.o.http.Response(p)
	}
	n, err := s.Incoming.Write(p)
	s.sent.Add(int64(n))
	s.failed(err)
	return n, err
}

// failed takes note of an error. A deadline breaks nothing: net/http uses it to
// take a Read back.
func (s *observedStream) failed(err error) {
	if err != nil && err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.broken.CompareAndSwap(nil, &err)
	}
}

func (s *observedStream) CloseWrite() error {
	if hc, ok := s.Incoming.(tunnel.HalfCloser); ok {
		return hc.CloseWrite()
	}
	return s.Close()
}

func (s *observedStream) Close() error {
	err := s.Incoming.Close()
	s.ended(nil)
	return err
}

func (s *observedStream) Reset(code tunnel.ResetCode, reason string) error {
	err := tunnel.Abort(s.Incoming, code, reason)
	s.ended(&tunnel.ResetError{Code: code, Reason: reason})
	return err
}

func (s *observedStream) ended(err error) {
	if !s.accepted.Load() {
		return // nobody was told of it
	}
	s.end.Do(func() {
		if first := s.broken.Load(); err == nil && first != nil {
			err = *first
		}
		s.o.ended(s.received.Load(), s.sent.Load(), err)
	})
}
