package session_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/memnet"
	"adit/session"
)

func TestCloseCodes(t *testing.T) {
	t.Parallel()
	for _, code := range []uint16{session.CloseDone, session.CloseCredential, session.CloseSuperseded, session.CloseShutdown, 4711} {
		p := memSessions(t, nil, nil)
		local, remote := p.open(t, "")
		if err := p.listener.CloseWith(code, "because"); err != nil {
			t.Errorf("CloseWith: %v", err)
		}
		for name, tt := range map[string]struct {
			err    error
			remote bool
		}{
			"listener":           {p.listener.Err(), false},
			"dialler":            {ended(t, p.dialler), true},
			"Read of listener":   {errOf(local.Read(make([]byte, 1))), false},
			"Write of dialler":   {errOf(remote.Write(make([]byte, 1))), true},
			"Open of dialler":    {errOfOpen(p.dialler.Open(nil)), true},
			"Accept of dialler":  {errOfOpen(p.dialler.Accept(t.Context())), true},
			"Call of dialler":    {errOfCall(p.dialler.Call(t.Context(), 1, nil)), true},
			"WaitAccepted":       {streamErr(remote), true},
			"Resume of dialler":  {resumeErr(p.dialler), true},
			"Open of listener":   {errOfOpen(p.listener.Open(nil)), false},
			"Call of listener":   {errOfCall(p.listener.Call(t.Context(), 1, nil)), false},
			"Accept of listener": {errOfOpen(p.listener.Accept(t.Context())), false},
		} {
			var ce *session.ClosedError
			if !errors.As(tt.err, &ce) || *ce != (session.ClosedError{Code: code, Reason: "because", Remote: tt.remote}) {
				t.Errorf("%s: %v, want a ClosedError with code %d, remote %v", name, tt.err, code, tt.remote)
			}
			if !errors.Is(tt.err, session.ErrClosed) {
				t.Errorf("%s: %v, want one that wraps ErrClosed", name, tt.err)
			}
		}
		if n := p.acceptor.Len(); n != 0 {
			t.Errorf("acceptor keeps %d sessions, want none", n)
		}
		if err := errors.Join(p.listener.Close(), p.dialler.Close()); err != nil {
			t.Errorf("Close again: %v", err)
		}
	}
}

func errOfOpen(_ *session.Stream, err error) error { return err }

func streamErr(st *session.Stream) error { return errOf(st.Read(make([]byte, 1))) }

func resumeErr(s *session.Session) error {
	a, b := memnet.Pipe()
	defer b.Close()
	return s.Resume(context.Background(), a)
}

// TestCloseBehindData closes a session right after data were queued: they come
// first, and can be read though the session has ended.
func TestCloseBehindData(t *testing.T) {
	t.Parallel()
	p := memSessions(t, nil, nil)
	local, remote := p.open(t, "")
	payload := bytes.Repeat([]byte("x"), 200<<10)
	if _, err := local.Write(payload); err != nil {
		t.Fatal(err)
	}
	p.listener.CloseWith(session.CloseShutdown, "")
	ended(t, p.dialler)
	got, err := io.ReadAll(remote)
	if !bytes.Equal(got, payload) || !errors.Is(err, session.ErrClosed) {
		t.Errorf("read %d bytes, %v; want %d bytes, ErrClosed", len(got), err, len(payload))
	}
	remote.Close()
	if _, n := p.dialler.Buffered(); n != 0 {
		t.Errorf("%d bytes are held after the end, want none", n)
	}
}

// TestCloseOfBusySession closes a session whose streams write all the time, and
// whose carrier takes longer for what is queued than Close waits: the other
// side must hear the code nevertheless.
func TestCloseOfBusySession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		p := newSessions(t, a, &slowConn{Conn: b, perByte: time.Second / (1 << 20)}, nil,
			&session.Options{ResumeWindow: -1})
		var wg sync.WaitGroup
		for range 20 {
			local, remote := p.open(t, "")
			wg.Go(func() { local.ReadFrom(zeros{}) })
			wg.Go(func() { remote.WriteTo(io.Discard) })
		}
		time.Sleep(5 * time.Second)
		begin := time.Now()
		p.listener.CloseWith(session.CloseSuperseded, "newer")
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("CloseWith takes %v, want 2s at most", took)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		var ce *session.ClosedError
		if err := p.dialler.Err(); !errors.As(err, &ce) || ce.Code != session.CloseSuperseded {
			t.Errorf("other side's session ended with %v, want code %d", err, session.CloseSuperseded)
		}
		wg.Wait()
	})
}

// A slowConn takes its time to write.
type slowConn struct {
	net.Conn
	perByte time.Duration
}

func (c *slowConn) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * c.perByte)
	return c.Conn.Write(p)
}

// TestCloseOnDeadCarrier closes a session whose carrier takes nothing any more.
func TestCloseOnDeadCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		h := newHoleConn(b)
		p := newSessions(t, a, h, nil, nil)
		local, _ := p.open(t, "")
		h.block()
		if _, err := local.Write(make([]byte, 100<<10)); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		p.listener.Close()
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("Close takes %v, want 2s at most", took)
		}
		p.dialler.Close()
	})
}

// TestCloseWaits closes while a call is being served: Close returns when that
// has ended, and its ctx is what ends it.
func TestCloseWaits(t *testing.T) {
	t.Parallel()
	var over sync.WaitGroup
	entered := make(chan struct{})
	var ended bool
	over.Add(1)
	handle := func(ctx context.Context, _ *session.Session, _ uint16, _ []byte) (uint16, []byte) {
		close(entered)
		<-ctx.Done()
		ended = true
		over.Done()
		return 0, nil
	}
	p := memSessions(t, nil, &session.Options{Handle: handle})
	done := make(chan error, 1)
	go func() { done <- errOfCall(p.dialler.Call(t.Context(), 1, nil)) }()
	<-entered
	p.listener.Close()
	if !ended {
		t.Error("Close returned before the call that was being served")
	}
	if err := <-done; !errors.Is(err, session.ErrClosed) {
		t.Errorf("Call: %v, want ErrClosed", err)
	}
	over.Wait()
}

// TestCloseUnblocks closes a session while all kinds of calls wait.
func TestCloseUnblocks(t *testing.T) {
	t.Parallel()
	p := memSessions(t, nil, nil)
	local, _ := p.open(t, "")
	early, err := p.dialler.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for name, f := range map[string]func() error{
		"Read":         func() error { return errOf(local.Read(make([]byte, 1))) },
		"Write":        func() error { return errOf(local.Write(make([]byte, 10<<20))) },
		"Accept":       func() error { return errOfOpen(p.dialler.Accept(context.Background())) },
		"WaitAccepted": func() error { return early.WaitAccepted(context.Background()) },
	} {
		wg.Go(func() {
			if err := f(); !errors.Is(err, session.ErrClosed) {
				t.Errorf("%s: %v, want ErrClosed", name, err)
			}
		})
	}
	for {
		if _, unread := p.dialler.Buffered(); unread > 0 { // Write has begun
			break
		}
		runtime.Gosched()
	}
	for range 4 {
		wg.Go(func() { p.listener.Close() })
	}
	wg.Wait()
}
