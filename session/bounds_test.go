package session_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"adit/internal/memnet"
	"adit/session"
)

// settle waits until cond holds, which nothing announces.
func settle(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not so after %v", what, patience)
		}
	}
}

// TestStalledReader has nobody read one stream: it stops at its window, and
// others go on.
func TestStalledReader(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, from, to *session.Stream) {
		s := from.Session()
		wrote := make(chan int, 1)
		go func() {
			n, _ := from.Write(make([]byte, 4<<20))
			wrote <- n
		}()
		settle(t, "stream is out of credit", func() bool {
			_, held := to.Session().Buffered()
			return held == window
		})
		var wg sync.WaitGroup
		for range 4 {
			st, err := s.Open(nil)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { st.Write(make([]byte, 2<<20)); st.Close() })
			other := accept(t, to.Session())
			wg.Go(func() {
				defer other.Close()
				if n, err := io.Copy(io.Discard, other); n != 2<<20 || err != nil {
					t.Errorf("another stream carried %d bytes, %v; want %d", n, err, 2<<20)
				}
			})
		}
		wg.Wait()
		if _, held := to.Session().Buffered(); held != window {
			t.Errorf("%d bytes are held for a stream that nobody reads, want %d", held, window)
		}
		to.Close()
		if n := <-wrote; n < window || n > window+session.MaxData {
			t.Errorf("%d bytes were written to the stalled stream, want about its window of %d", n, window)
		}
	})
}

// TestReceiveLimit has a peer fill the windows of many streams that nobody
// reads: beyond the session's limit the stream that gets more is reset, with
// code 5, and the others keep theirs.
func TestReceiveLimit(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	a := session.NewAcceptor(&session.Options{ReceiveBuffer: limit})
	p, s := acceptRaw(t, a)
	go func() {
		for id := uint64(1); id < 12; id += 2 {
			p.send(frame(frOpen, id), data(id, window))
		}
	}()
	f, ok := p.next()
	if !ok || f.typ != frReset || f.id != 9 || f.code() != 5 {
		t.Fatalf("frame of type %#x for %d, want RESET 5 for stream 9", f.typ, f.id)
	}
	f, ok = p.next()
	if !ok || f.typ != frReset || f.id != 11 || f.code() != 5 {
		t.Fatalf("frame of type %#x for %d, want RESET 5 for stream 11", f.typ, f.id)
	}
	for range 4 {
		if n, err := io.ReadFull(accept(t, s), make([]byte, window)); err != nil {
			t.Errorf("stream below the limit yields %d bytes, %v; want %d", n, err, window)
		}
	}
	if _, err := accept(t, s).Read(make([]byte, 1)); !errors.Is(err, session.ErrStreamClosed) {
		t.Errorf("Read of the stream over the limit: %v, want ErrStreamClosed", err)
	}
	if _, held := s.Buffered(); held != 0 {
		t.Errorf("%d bytes are held after all was read, want none", held)
	}
}

// TestSmallPieces sends a window of single bytes, as DATA of their own and from
// many streams: memory stays in proportion.
func TestSmallPieces(t *testing.T) {
	// Not parallel: it measures the memory of the process.
	p, s := acceptRaw(t, session.NewAcceptor(nil))
	const streams, pieces = 100, 2000
	go func() {
		var open []byte
		for i := range streams {
			open = append(open, frame(frOpen, uint64(2*i+1))...)
		}
		p.send(open)
		var batch []byte
		for i := range streams {
			batch = append(batch, frame(frData, uint64(2*i+1), []byte{byte(i)})...)
		}
		for range pieces {
			p.send(batch)
		}
	}()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range streams {
		st := accept(t, s)
		defer func() {
			b := make([]byte, pieces)
			if _, err := io.ReadFull(st, b); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{byte(i)}, pieces)) {
				t.Errorf("stream %d: other bytes than were sent, %v", i, err)
			}
		}()
	}
	settle(t, "all has arrived", func() bool { _, held := s.Buffered(); return held == streams*pieces })
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grew := int64(after.HeapAlloc) - int64(before.HeapAlloc); !raceEnabled && grew > 16<<20 {
		t.Errorf("%d bytes in pieces of 1 take %d bytes of memory, want 16 MiB at most", streams*pieces, grew)
	}
}

// TestSendBuffer lets writers fill a small send buffer, with a carrier that
// takes nothing and without one: memory stays within bounds, and all arrives
// when there is a carrier again.
func TestSendBuffer(t *testing.T) {
	t.Parallel()
	const limit = 512 << 10
	for _, tt := range []struct {
		name string
		stop func(a net.Conn, h *holeConn)
	}{
		{"without carrier", func(a net.Conn, h *holeConn) { a.Close(); h.Close() }},
		{"carrier takes nothing", func(_ net.Conn, h *holeConn) { h.block() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, b := memnet.Pipe()
			h := newHoleConn(b)
			budget := session.NewBudget(1 << 30)
			p := newSessions(t, a, h, &session.Options{Window: 1 << 20}, &session.Options{SendBuffer: limit, Budget: budget})
			const streams, size = 30, 300 << 10
			var wg sync.WaitGroup
			var locals [streams]*session.Stream
			for i := range streams {
				local, remote := p.open(t, "")
				locals[i] = local
				wg.Go(func() {
					if n, err := io.Copy(io.Discard, remote); n != size || err != nil {
						t.Errorf("stream %d: received %d bytes, %v; want %d", i, n, err, size)
					}
					remote.Close()
				})
			}
			tt.stop(a, h)
			for i, local := range locals {
				wg.Go(func() {
					defer local.Close()
					if i%2 == 0 {
						local.Write(make([]byte, size))
					} else {
						local.ReadFrom(io.LimitReader(zeros{}, size))
					}
				})
			}
			settle(t, "buffer is full", func() bool { send, _ := p.listener.Buffered(); return send >= limit })
			// Each that was let in took one chunk more, at the most.
			if send, _ := p.listener.Buffered(); send > limit+session.MaxData+4<<10 {
				t.Errorf("%d bytes are buffered, want %d and one DATA frame at most", send, limit)
			}
			if used := budget.Used(); used < limit || used > limit+session.MaxData+4<<10 {
				t.Errorf("%d bytes are counted against the budget, want about %d", used, limit)
			}
			a2, b2 := tcpPair(t)
			if err := p.resume(t.Context(), a2, b2); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			settle(t, "all is acknowledged", func() bool {
				send, _ := p.listener.Buffered()
				return send == 0 && budget.Used() == 0
			})
		})
	}
}

// TestSharedBudget has two sessions share a budget that one of them uses up:
// both make progress.
func TestSharedBudget(t *testing.T) {
	t.Parallel()
	budget := session.NewBudget(1 << 20)
	opts := &session.Options{Budget: budget, Window: 4 << 20}
	a, b := memnet.Pipe()
	h := newHoleConn(b)
	hog := newSessions(t, a, h, opts, opts)
	var stuck []*session.Stream
	for range 40 {
		local, _ := hog.open(t, "")
		stuck = append(stuck, local)
	}
	h.block()
	for _, local := range stuck {
		go local.Write(make([]byte, 1<<20))
	}
	settle(t, "budget is used up", func() bool { return budget.Used() >= 1<<20 })

	p := memSessions(t, opts, opts)
	for range 3 {
		local, remote := p.open(t, "")
		go func() { local.Write(make([]byte, 3<<20)); local.Close() }()
		if n, err := io.Copy(io.Discard, remote); n != 3<<20 || err != nil {
			t.Fatalf("beside a session that has used up the budget: %d bytes, %v; want %d", n, err, 3<<20)
		}
		remote.Close()
	}
	// A lost session gives its share back.
	hog.listener.Close()
	hog.dialler.Close()
	p.listener.Close()
	p.dialler.Close()
	settle(t, "budget is free", func() bool { return budget.Used() == 0 })
}

// TestIdleReadFrom has many streams wait in ReadFrom for something that is no
// socket: they must not use up the send buffer.
func TestIdleReadFrom(t *testing.T) {
	t.Parallel()
	p := memSessions(t, nil, &session.Options{SendBuffer: 128 << 10})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer p.listener.Close()
	for range 50 {
		local, _ := p.open(t, "")
		r, w := io.Pipe()
		defer w.Close()
		wg.Go(func() { local.ReadFrom(r) })
		w.Write([]byte("x")) // ReadFrom has begun
	}
	local, remote := p.open(t, "")
	wg.Go(func() { local.Write(make([]byte, 1<<20)); local.Close() })
	remote.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.Copy(io.Discard, remote); n != 1<<20 || err != nil {
		t.Errorf("beside idle streams: %d bytes, %v; want %d", n, err, 1<<20)
	}
}

// TestOpenFlood opens more streams than are allowed, and more than are taken.
func TestOpenFlood(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		max   int
		allow int
	}{
		{"over MaxStreams", 100, 100},
		{"none allowed", -1, 0},
		{"over the accept backlog", 0, session.AcceptBacklog},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, s := acceptRaw(t, session.NewAcceptor(&session.Options{MaxStreams: tt.max}))
			for i := range tt.allow + 50 {
				p.send(frame(frOpen, uint64(2*i+1)))
			}
			for i := range 50 {
				if f := p.want(frRefuse, uint64(2*(tt.allow+i)+1)); f.code() != 6 {
					t.Fatalf("REFUSE %d, want 6", f.code())
				}
			}
			if n := s.Streams(); n != tt.allow {
				t.Errorf("%d streams are open, want %d", n, tt.allow)
			}
			if tt.allow == 0 {
				return
			}
			// One that is gone makes room for another.
			p.send(frame(frReset, 1, u16(2)))
			accept(t, s)
			id := uint64(2*(tt.allow+50) + 1)
			p.send(frame(frOpen, id), frame(frData, id, []byte("x")))
			settle(t, "the new stream is open", func() bool { return s.Streams() == tt.allow })
		})
	}
}

// TestOpenLimit opens as many streams as the other side allows.
func TestOpenLimit(t *testing.T) {
	t.Parallel()
	p := memSessions(t, &session.Options{MaxStreams: 3}, nil)
	var all []*session.Stream
	for range 3 {
		st, err := p.listener.Open(nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, st)
	}
	var re *session.RefusedError
	if _, err := p.listener.Open(nil); !errors.As(err, &re) || re.Code != 6 {
		t.Errorf("Open over the limit: %v, want a refusal with code 6", err)
	}
	all[0].Reset(2, "")
	if _, err := p.listener.Open(nil); err != nil {
		t.Errorf("Open after one is gone: %v", err)
	}
	if err := errors.Join(p.listener.Err(), p.dialler.Err()); err != nil {
		t.Errorf("session ended: %v", err)
	}
}

// flood writes b again and again until the carrier ends or n bytes are gone.
func (p *rawPeer) flood(b []byte, n int) {
	for ; n > 0; n -= len(b) {
		if _, err := p.conn.Write(b); err != nil {
			return
		}
	}
}

// TestPingFlood sends pings and reads no answer: they cost no memory.
func TestPingFlood(t *testing.T) {
	t.Parallel()
	p, s := acceptRaw(t, session.NewAcceptor(nil))
	p.flood(bytes.Repeat(record(recPing, u64(0), u64(1)), 1000), 16<<20)
	if send, receive := s.Buffered(); send != 0 || receive != 0 {
		t.Errorf("%d and %d bytes are held after a flood of pings, want none", send, receive)
	}
	if err := s.Err(); err != nil {
		t.Errorf("session ended: %v", err)
	}
}

// TestControlOverflow makes the other side answer and takes no answer: the
// session ends with CLOSE 5 within its bounds.
func TestControlOverflow(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		one  func(i int) []byte
	}{
		{"OPEN", func(i int) []byte { return frame(frOpen, uint64(2*i+1)) }},
		{"CALL", func(i int) []byte { return frame(frCall, uint64(i+1), u16(9)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			limit := 1 << 20
			a := session.NewAcceptor(&session.Options{MaxStreams: -1, SendBuffer: 64 << 10})
			p, s := acceptRaw(t, a)
			most := 0
			for i := 0; s.Err() == nil; i += 100 {
				var b []byte
				for k := range 100 {
					b = append(b, tt.one(i+k)...)
				}
				p.send(b)
				send, _ := s.Buffered()
				most = max(most, send)
			}
			if most > limit+64<<10+2*session.MaxData {
				t.Errorf("%d bytes were held, want %d and a bit at most", most, limit+64<<10)
			}
			p.wantOverflow(s)
		})
	}
}

// wantOverflow checks that s ended because this side took nothing. CALL may
// hit its own limit before.
func (p *rawPeer) wantOverflow(s *session.Session) {
	p.t.Helper()
	var pe *session.ProtocolError
	if err := s.Err(); !errors.As(err, &pe) {
		p.t.Errorf("session ended with %v, want a ProtocolError", err)
	}
	for p.take() {
	}
	if p.closed != nil && p.closed.Code != 5 && p.closed.Code != 1 {
		p.t.Errorf("CLOSE %d, want 5", p.closed.Code)
	}
}

// TestNeverAcknowledged reads all and acknowledges nothing: writers wait.
func TestNeverAcknowledged(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	p, s := acceptRaw(t, session.NewAcceptor(&session.Options{SendBuffer: limit}))
	go func() {
		for {
			if _, _, err := p.tryRead(); err != nil {
				return
			}
		}
	}()
	for range 8 {
		st, err := s.Open(nil)
		if err != nil {
			t.Fatal(err)
		}
		go st.Write(make([]byte, 1<<20))
	}
	settle(t, "buffer is full", func() bool { send, _ := s.Buffered(); return send >= limit })
	for range 1000 {
		runtime.Gosched()
	}
	if send, _ := s.Buffered(); send > limit+2*session.MaxData {
		t.Errorf("%d bytes are held, want %d and a bit at most", send, limit)
	}
	p.conn.Close()
	s.Close()
}
