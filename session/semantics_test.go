package session_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/memnet"
	"adit/session"
)

// memSessions starts a session in memory.
func memSessions(t testing.TB, dopts, lopts *session.Options) *sessions {
	t.Helper()
	a, b := memnet.Pipe()
	return newSessions(t, a, b, dopts, lopts)
}

// bothWays runs f with the ends of a new stream, for either side as writer.
func bothWays(t *testing.T, f func(t *testing.T, from, to *session.Stream)) {
	for _, name := range []string{"listener to dialler", "dialler to listener"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := memSessions(t, nil, nil)
			from, to := p.open(t, "")
			if name == "dialler to listener" {
				from, to = to, from
			}
			for _, st := range []*session.Stream{from, to} {
				st.SetDeadline(time.Now().Add(patience))
			}
			f(t, from, to)
		})
	}
}

func TestHalfClose(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, from, to *session.Stream) {
		if _, err := from.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		if err := from.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := from.CloseWrite(); err != nil {
			t.Errorf("second CloseWrite: %v", err)
		}
		if _, err := from.Write([]byte("x")); !errors.Is(err, session.ErrStreamClosed) {
			t.Errorf("Write after CloseWrite: %v, want ErrStreamClosed", err)
		}
		if got, err := io.ReadAll(to); string(got) != "question" || err != nil {
			t.Errorf("read %q, %v; want question", got, err)
		}
		answer := bytes.Repeat([]byte("answer"), 1<<17) // more than the window
		go func() {
			to.Write(answer)
			to.Close()
		}()
		if got, err := io.ReadAll(from); !bytes.Equal(got, answer) || err != nil {
			t.Errorf("read %d bytes, %v; want %d", len(got), err, len(answer))
		}
		if n := from.Session().Streams(); n != 0 {
			t.Errorf("%d streams are open, want none", n)
		}
	})
}

// TestResetBehindData resets a stream whose data the other side has not read.
func TestResetBehindData(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, from, to *session.Stream) {
		if _, err := from.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		if err := from.Reset(4711, "why not"); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(to)
		var re *session.ResetError
		if string(got) != "last words" || !errors.As(err, &re) || *re != (session.ResetError{Code: 4711, Reason: "why not", Remote: true}) {
			t.Errorf("read %q, %v; want last words, and a reset with code 4711", got, err)
		}
		if _, err := to.Write([]byte("x")); !errors.As(err, &re) {
			t.Errorf("Write: %v, want a ResetError", err)
		}
		for name, err := range map[string]error{
			"Read":   errOf(from.Read(make([]byte, 1))),
			"Write":  errOf(from.Write([]byte("x"))),
			"Accept": from.Accepted(),
		} {
			if !errors.Is(err, session.ErrStreamClosed) {
				t.Errorf("%s on the side that reset: %v, want ErrStreamClosed", name, err)
			}
		}
		if err := to.Reset(1, ""); err != nil {
			t.Errorf("Reset of a stream that is gone: %v", err)
		}
	})
}

// TestStop closes a stream that the other side writes to.
func TestStop(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, from, to *session.Stream) {
		wrote := make(chan error, 1)
		go func() {
			for {
				if _, err := from.Write(make([]byte, 10000)); err != nil {
					wrote <- err
					return
				}
			}
		}()
		if _, err := io.ReadFull(to, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		to.Close()
		if err := <-wrote; !errors.Is(err, session.ErrStopped) {
			t.Errorf("Write: %v, want ErrStopped", err)
		}
		if n, err := from.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read: %d, %v; want io.EOF", n, err)
		}
		waitStreams(t, from.Session(), to.Session())
	})
}

// waitStreams waits until sessions have no streams left.
func waitStreams(t testing.TB, all ...*session.Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, s := range all {
		// Results of calls come behind everything that was sent before.
		for s.Streams() > 0 {
			if _, _, err := s.Call(ctx, 999, nil); err != nil {
				t.Fatalf("%d streams are left: %v", s.Streams(), err)
			}
		}
	}
}

// TestStopOvertakesEnd has STOP come in while the stream's last DATA, which
// says END too, still waits for the carrier: the END must not be lost.
func TestStopOvertakesEnd(t *testing.T) {
	t.Parallel()
	near, far := memnet.Pipe()
	p := newRawPeer(t, near)
	p.write(hello(1, 1, generous()))
	s, _, err := session.NewAcceptor(nil).Accept(t.Context(), far, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	defer near.Close()
	p.read() // WELCOME
	p.send(frame(frOpen, 1), frame(frOpen, 3))
	st, other := accept(t, s), accept(t, s)
	// The carrier takes 64 KiB, and p reads nothing.
	go other.Write(make([]byte, 800<<10))
	for held := 0; held < 128<<10; held, _ = s.Buffered() {
		runtime.Gosched()
	}
	if _, err := st.Write(make([]byte, 50<<10)); err != nil {
		t.Fatal(err)
	}
	if err := st.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	p.send(frame(frStop, 1, u16(2)), frame(frEnd, 1), frame(frCall, 1, u16(0)))
	for s.Streams() > 1 {
		runtime.Gosched()
	}
	ended := false
	for {
		f, ok := p.next()
		if !ok {
			t.Fatalf("session ended: %v", s.Err())
		}
		if f.id == 1 && f.typ == frEnd {
			ended = true
		}
		if f.typ == frResult {
			break
		}
	}
	if !ended {
		t.Error("no END on the stream that was stopped")
	}
}

// TestRefusedEarly refuses a stream that was written to at once.
func TestRefusedEarly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		do   func(st *session.Stream) error
	}{
		{"Read", func(st *session.Stream) error { return errOf(st.Read(make([]byte, 1))) }},
		{"WriteTo", func(st *session.Stream) error { _, err := st.WriteTo(io.Discard); return err }},
		{"Write", func(st *session.Stream) error {
			for {
				if _, err := st.Write(make([]byte, 1000)); err != nil {
					return err
				}
			}
		}},
		{"ReadFrom", func(st *session.Stream) error { _, err := st.ReadFrom(zeros{}); return err }},
		{"WaitAccepted", func(st *session.Stream) error { return st.WaitAccepted(context.Background()) }},
		{"WaitAccepted after CloseWrite", func(st *session.Stream) error {
			st.CloseWrite()
			return st.WaitAccepted(context.Background())
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := memSessions(t, nil, nil)
			st, err := p.listener.Open([]byte("m"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Write([]byte("request")); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- tt.do(st) }()
			if err := accept(t, p.dialler).Refuse(3, "no upstream"); err != nil {
				t.Fatal(err)
			}
			err = <-done
			var re *session.RefusedError
			if !errors.As(err, &re) || *re != (session.RefusedError{Code: 3, Reason: "no upstream"}) {
				t.Errorf("%v, want a refusal with code 3", err)
			}
			st.Close()
			waitStreams(t, p.listener, p.dialler)
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return min(len(p), 1000), nil }

// TestOpenedAndLeftAlone opens a stream and does nothing with it: the other side
// hears of it in good time nevertheless.
func TestOpenedAndLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := memSessions(t, nil, nil)
		begin := time.Now()
		for range 3 {
			if _, err := p.listener.Open(nil); err != nil {
				t.Fatal(err)
			}
			accept(t, p.dialler)
		}
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("three streams take %v to arrive, want 25ms each", took)
		}
		p.dialler.Close()
		p.listener.Close()
	})
}

// TestAcceptedThenRefused is a reset, since REFUSE is not valid any more.
func TestAcceptedThenRefused(t *testing.T) {
	t.Parallel()
	p := memSessions(t, nil, nil)
	local, remote := p.open(t, "")
	remote.Refuse(3, "too late")
	var re *session.ResetError
	if _, err := local.Read(make([]byte, 1)); !errors.As(err, &re) || re.Code != 3 {
		t.Errorf("Read: %v, want a reset with code 3", err)
	}
}

// TestWaitAcceptedAfterCloseWrite has the opener end its direction before the
// other side answers.
func TestWaitAcceptedAfterCloseWrite(t *testing.T) {
	t.Parallel()
	p := memSessions(t, nil, nil)
	st, err := p.listener.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	st.CloseWrite()
	acc := make(chan error, 1)
	go func() { acc <- st.WaitAccepted(context.Background()) }()
	remote := accept(t, p.dialler)
	if err := remote.Accepted(); err != nil {
		t.Fatal(err)
	}
	if err := <-acc; err != nil {
		t.Errorf("WaitAccepted: %v", err)
	}
	remote.Close()
	st.Close()
}

func TestDrain(t *testing.T) {
	t.Parallel()
	p := memSessions(t, nil, nil)
	local, remote := p.open(t, "")
	changed := make(chan struct{}, 10)
	p.dialler.OnChange(func() { changed <- struct{}{} })
	p.listener.Drain("moving")
	p.listener.Drain("again")
	<-changed
	if !p.dialler.Draining() || p.dialler.Available() {
		t.Errorf("Draining %v, Available %v at the side that was told; want true, false", p.dialler.Draining(), p.dialler.Available())
	}
	if p.listener.Draining() || !p.listener.Available() {
		t.Errorf("Draining %v, Available %v at the side that drains; want false, true", p.listener.Draining(), p.listener.Available())
	}
	if _, err := p.dialler.Open(nil); !errors.Is(err, session.ErrDraining) {
		t.Errorf("Open at the side that was told: %v, want ErrDraining", err)
	}
	// What is open goes on, and so may the other side.
	go func() { remote.Write([]byte("still here")); remote.Close() }()
	if got, err := io.ReadAll(local); string(got) != "still here" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	local.Close()
	st, err := p.listener.Open(nil)
	if err != nil {
		t.Fatalf("Open at the side that drains: %v", err)
	}
	st.CloseWrite()
	accept(t, p.dialler).Close()
	st.Close()
	waitStreams(t, p.listener, p.dialler)
}

func TestCalls(t *testing.T) {
	t.Parallel()
	release, entered := make(chan struct{}), make(chan struct{}, 100)
	handle := func(ctx context.Context, _ *session.Session, method uint16, body []byte) (uint16, []byte) {
		switch method {
		case 1:
			return 0, bytes.ToUpper(body)
		case 2:
			entered <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done():
			}
			return 7, nil
		}
		return 4711, []byte("no")
	}
	p := memSessions(t, nil, &session.Options{Handle: handle})
	ctx := t.Context()
	if status, body, err := p.dialler.Call(ctx, 1, []byte("hello")); status != 0 || string(body) != "HELLO" || err != nil {
		t.Errorf("Call: %d, %q, %v; want 0, HELLO", status, body, err)
	}
	if status, body, err := p.dialler.Call(ctx, 9, nil); status != 4711 || string(body) != "no" || err != nil {
		t.Errorf("Call: %d, %q, %v; want 4711, no", status, body, err)
	}
	if status, _, err := p.listener.Call(ctx, 1, nil); status != 2 || err != nil {
		t.Errorf("Call to a side without Handle: %d, %v; want 2", status, err)
	}
	big := bytes.Repeat([]byte("x"), 16382)
	if status, body, err := p.dialler.Call(ctx, 1, big); status != 0 || len(body) != len(big) || err != nil {
		t.Errorf("Call with %d bytes: %d, %d bytes, %v", len(big), status, len(body), err)
	}
	if _, _, err := p.dialler.Call(ctx, 1, append(big, 'x')); err == nil || !strings.Contains(err.Error(), "16382") {
		t.Errorf("Call with %d bytes: %v, want an error that names the limit", len(big)+1, err)
	}

	// 16 at once; one that is given up keeps its place.
	short, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			ctx := ctx
			if i == 0 {
				ctx = short
			}
			status, _, err := p.dialler.Call(ctx, 2, nil)
			if i == 0 && !errors.Is(err, context.Canceled) || i > 0 && (status != 7 || err != nil) {
				t.Errorf("call %d: %d, %v", i, status, err)
			}
		})
	}
	for range 16 {
		<-entered
	}
	cancel()
	if err := errOfCall(p.dialler.Call(ctx, 2, nil)); !errors.Is(err, session.ErrTooManyCalls) {
		t.Errorf("17th call: %v, want ErrTooManyCalls", err)
	}
	close(release)
	wg.Wait()
	for errors.Is(errOfCall(p.dialler.Call(ctx, 2, nil)), session.ErrTooManyCalls) {
	}
	if err := errors.Join(p.dialler.Err(), p.listener.Err()); err != nil {
		t.Errorf("session ended: %v", err)
	}
}

func errOfCall(_ uint16, _ []byte, err error) error { return err }

// TestLongResult has Handle answer with more than a RESULT takes.
func TestLongResult(t *testing.T) {
	t.Parallel()
	handle := func(context.Context, *session.Session, uint16, []byte) (uint16, []byte) {
		return 0, make([]byte, 100<<10)
	}
	p := memSessions(t, nil, &session.Options{Handle: handle})
	status, body, err := p.dialler.Call(t.Context(), 1, nil)
	if status != 0 || len(body) != 16382 || err != nil {
		t.Errorf("Call: %d, %d bytes, %v; want 0 and 16382 bytes", status, len(body), err)
	}
}

// TestCallAcrossCarriers makes a call between two carriers.
func TestCallAcrossCarriers(t *testing.T) {
	t.Parallel()
	a, b := memnet.Pipe()
	p := newSessions(t, a, b, nil, nil)
	a.Close()
	b.Close()
	<-p.dialler.Detached()
	done := make(chan uint16)
	go func() {
		status, _, _ := p.dialler.Call(t.Context(), 1, nil)
		done <- status
	}()
	a, b = memnet.Pipe()
	if err := p.resume(t.Context(), a, b); err != nil {
		t.Fatal(err)
	}
	if status := <-done; status != 2 {
		t.Errorf("status %d, want 2", status)
	}
}

// TestStreamDeadlines checks all four calls with deadlines, on an exact clock.
func TestStreamDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := memSessions(t, nil, nil)
		st, _ := p.open(t, "")
		fill := make([]byte, 10<<20)
		for name, f := range map[string]func() error{
			"Read":     func() error { return errOf(st.Read(make([]byte, 1))) },
			"WriteTo":  func() error { _, err := st.WriteTo(io.Discard); return err },
			"Write":    func() error { return errOf(st.Write(fill)) },
			"ReadFrom": func() error { _, err := st.ReadFrom(zeros{}); return err },
		} {
			begin := time.Now()
			st.SetDeadline(begin.Add(3 * time.Second))
			if err := f(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != 3*time.Second {
				t.Errorf("%s: %v after %v, want os.ErrDeadlineExceeded after 3s", name, err, time.Since(begin))
			}
			if err := f(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s after the deadline: %v, want os.ErrDeadlineExceeded", name, err)
			}
			// One that is moved while the call waits.
			st.SetDeadline(time.Time{})
			time.AfterFunc(time.Second, func() { st.SetDeadline(time.Unix(1, 0)) })
			if err := f(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s when a deadline is set: %v, want os.ErrDeadlineExceeded", name, err)
			}
		}
		st.Close()
		if err := st.SetDeadline(time.Time{}); !errors.Is(err, session.ErrStreamClosed) {
			t.Errorf("SetDeadline after Close: %v, want ErrStreamClosed", err)
		}
		p.dialler.Close()
		p.listener.Close()
	})
}
