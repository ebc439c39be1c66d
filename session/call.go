package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// A callState is the calls of both sides, guarded by Session.mu.
type callState struct {
	last    uint64             // number of this side's last call
	waiting map[uint64]*result // this side's calls without answer
	serving int                // the other side's calls without answer
	ctx     context.Context    // of serving them; nil while none is served
	cancel  context.CancelFunc // when the session ends
}

type result struct {
	done   chan struct{} // closed when the rest is set
	status uint16
	body   []byte
}

// statusUnknownMethod answers a call that nobody handles.
const statusUnknownMethod = 2

// ErrTooManyCalls says that as many calls are unanswered as the other side
// allows.
var ErrTooManyCalls = errors.New("session: too many calls at once")

// Call asks the other side for something that belongs to the session. The
// meaning of method and body (at most 16382 bytes) is the caller's, and status 0
// is success. Between two carriers it waits for the next. ctx bounds the wait;
// the call may have been carried out even if it passed.
func (s *Session) Call(ctx context.Context, method uint16, body []byte) (status uint16, answer []byte, err error) {
	if len(body) > maxCall-2 {
		return 0, nil, fmt.Errorf("session: call with %d bytes: at most %d", len(body), maxCall-2)
	}
	r := &result{done: make(chan struct{})}
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return 0, nil, s.err
	}
	if len(s.calls.waiting) >= maxCalls {
		s.mu.Unlock()
		return 0, nil, ErrTooManyCalls
	}
	s.calls.last++
	n := s.calls.last
	if s.calls.waiting == nil {
		s.calls.waiting = make(map[uint64]*result)
	}
	s.calls.waiting[n] = r
	s.appendLocked(frameCall, n, append(binary.BigEndian.AppendUint16(nil, method), body...))
	s.flushUnlock()

	// A call that was given up keeps its place until it is answered: the
	// other side still counts it.
	select {
	case <-r.done:
		return r.status, r.body, nil
	case <-s.done:
		return 0, nil, s.Err()
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
}

func (s *Session) onResult(n uint64, payload []byte) error {
	status, body, ok := parseCode(payload)
	if !ok {
		return protocolErrorf("RESULT without status")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.calls.waiting[n]
	if r == nil {
		return protocolErrorf("RESULT for call %d, which is not waiting", n)
	}
	delete(s.calls.waiting, n)
	r.status, r.body = status, append([]byte(nil), body...)
	close(r.done)
	return nil
}

func (s *Session) onCall(n uint64, payload []byte) error {
	method, body, ok := parseCode(payload)
	if !ok {
		return protocolErrorf("CALL without method")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls.serving >= maxCalls {
		return protocolErrorf("more than %d calls at once", maxCalls)
	}
	if s.err != nil {
		return nil
	}
	if s.calls.cancel == nil {
		s.calls.ctx, s.calls.cancel = context.WithCancel(context.Background())
	}
	s.calls.serving++
	go s.serveCall(s.calls.ctx, n, method, append([]byte(nil), body...))
	return nil
}

// serveCall answers one call; CloseWith waits for it.
func (s *Session) serveCall(ctx context.Context, n uint64, method uint16, body []byte) {
	status, answer := uint16(statusUnknownMethod), []byte(nil)
	if s.opts.Handle != nil {
		status, answer = s.opts.Handle(ctx, s, method, body)
	}
	s.mu.Lock()
	if s.calls.serving--; s.calls.serving == 0 {
		s.calls.cancel() // an idle session holds no context
		s.calls.ctx, s.calls.cancel = nil, nil
	}
	s.cond.Broadcast()
	answer = answer[:min(len(answer), maxCall-2)]
	s.appendLocked(frameResult, n, append(binary.BigEndian.AppendUint16(nil, status), answer...))
	s.flushUnlock()
}
