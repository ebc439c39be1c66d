package wsmux_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"adit/dialect/websocktunnel/wsmux"
	"adit/internal/wsframe"
)

// An original is the other side of a session as the originals are, and as
// strict as they are fragile: what would break one of them fails the test.
type original struct {
	raw   *raw
	serve func(*originalStream) // of an agent, for each stream

	wmu sync.Mutex // held to send

	mu       sync.Mutex // guards the fields below
	streams  map[uint32]*originalStream
	pending  int // streams that were not accepted, and the most that there were
	most     int
	err      error // what went wrong first, or why it ended
	closing  bool
	handlers sync.WaitGroup
}

// An originalStream is a stream at an original.
type originalStream struct {
	o                    *original
	cond                 sync.Cond // of o.mu
	id                   uint32
	accepted             bool
	room                 int64 // what may come: more overruns the buffer
	credit               int64 // what may be sent
	unread               []byte
	finSent, finReceived bool
}

// startOriginal starts a session and its other side, which begins to run.
func startOriginal(t *testing.T, role wsmux.Role, opts wsmux.Options, serve func(*originalStream)) (*wsmux.Session, *original) {
	t.Helper()
	s, r := start(t, role, opts)
	r.conn.SetDeadline(time.Now().Add(6 * patience))
	o := &original{raw: r, serve: serve, streams: map[uint32]*originalStream{}}
	o.handlers.Go(o.readLoop)
	t.Cleanup(func() {
		o.mu.Lock()
		o.closing = true
		o.mu.Unlock()
		r.conn.Close()
		o.handlers.Wait()
		if o.err != nil {
			t.Error(o.err)
		}
	})
	return s, o
}

func (o *original) readLoop() {
	for {
		f, err := readFrame(o.raw.conn, !o.raw.masked)
		if err == nil && f.op == wsframe.Ping {
			o.send(func() { o.raw.message(wsframe.Pong, []byte(f.payload)) })
			continue
		}
		o.mu.Lock()
		if err == nil && f.op == wsframe.Binary {
			err = o.takeLocked(f)
		}
		if err != nil && o.err == nil && !o.closing {
			o.err = err
		}
		if err != nil {
			o.closing = true
			for _, st := range o.streams {
				st.cond.Broadcast()
			}
		}
		o.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (o *original) send(f func()) {
	o.wmu.Lock()
	defer o.wmu.Unlock()
	o.mu.Lock()
	closing := o.closing
	o.mu.Unlock()
	if !closing {
		f()
	}
}

// takeLocked takes a frame in, and says what would have broken an original.
func (o *original) takeLocked(f frame) error {
	agent := o.serve != nil
	st := o.streams[f.stream]
	switch {
	case f.typ == wsmux.SYN && (!agent || f.stream%2 != 0 || st != nil):
		return fmt.Errorf("got %v", f)
	case f.typ == wsmux.SYN:
		st = o.addLocked(f.stream)
		if o.most = max(o.most, o.pending); o.most > 199 {
			return fmt.Errorf("%d streams wait to be accepted", o.pending)
		}
		o.handlers.Go(func() { o.serve(st) })
	case st == nil && f.typ == wsmux.ACK: // on its way when the stream ended
	case st == nil:
		return fmt.Errorf("got %v for a stream that has ended or never was", f)
	case f.typ == wsmux.ACK:
		if !agent && !st.accepted {
			st.accepted = true
			o.pending--
		}
		st.credit += int64(f.credit())
	case !st.accepted:
		return fmt.Errorf("got %v before the stream was accepted", f)
	case st.finReceived:
		return fmt.Errorf("got %v behind FIN", f)
	case f.typ == wsmux.DAT:
		if st.room -= int64(len(f.payload)); st.room < 0 || f.payload == "" {
			return fmt.Errorf("got %d bytes on stream %d, %d too many", len(f.payload), st.id, -st.room)
		}
		st.unread = append(st.unread, f.payload...)
	case f.typ == wsmux.FIN:
		st.finReceived = true
		o.forgetLocked(st)
	}
	if st != nil {
		st.cond.Broadcast()
	}
	return nil
}

func (o *original) addLocked(id uint32) *originalStream {
	st := &originalStream{o: o, id: id}
	st.cond.L = &o.mu
	o.streams[id] = st
	o.pending++
	return st
}

func (o *original) forgetLocked(st *originalStream) {
	if st.finSent && st.finReceived {
		delete(o.streams, st.id)
	}
}

// accept accepts a stream with a window.
func (st *originalStream) accept(window int) {
	o := st.o
	o.mu.Lock()
	st.accepted = true
	st.room, st.credit = int64(window), int64(window) // each takes the other's for its own
	o.pending--
	o.mu.Unlock()
	o.send(func() { o.raw.ack(st.id, window) })
}

// wait waits for ready, and reports false if the stream has ended before.
func (st *originalStream) wait(ready func() bool) bool {
	st.o.mu.Lock()
	defer st.o.mu.Unlock()
	for !ready() {
		if st.o.closing || st.finReceived {
			return false
		}
		st.cond.Wait()
	}
	return true
}

// read returns up to n bytes, and gives credit for them; nil at the end.
func (st *originalStream) read(n int) []byte {
	if !st.wait(func() bool { return len(st.unread) > 0 }) {
		return nil
	}
	o := st.o
	o.mu.Lock()
	n = min(n, len(st.unread))
	b := bytes.Clone(st.unread[:n])
	st.unread = st.unread[n:]
	st.room += int64(n)
	o.mu.Unlock()
	o.send(func() { o.raw.ack(st.id, n) })
	return b
}

// write sends b within the credit, and reports false if the stream ends.
func (st *originalStream) write(b []byte) bool {
	for len(b) > 0 {
		if !st.wait(func() bool { return st.credit > 0 }) {
			return false
		}
		st.o.mu.Lock()
		n := min(int64(len(b)), st.credit, 32<<10)
		st.credit -= n
		st.o.mu.Unlock()
		st.o.send(func() { st.o.raw.send(wsmux.DAT, st.id, string(b[:n])) })
		b = b[n:]
	}
	return true
}

// finish sends FIN, and waits for the other's.
func (st *originalStream) finish() {
	o := st.o
	o.send(func() { o.raw.send(wsmux.FIN, st.id, "") })
	o.mu.Lock()
	st.finSent = true
	o.forgetLocked(st)
	o.mu.Unlock()
	st.wait(func() bool { return st.finReceived })
}

// settle waits until neither side has a stream left.
func (o *original) settle(t *testing.T, s *wsmux.Session) {
	t.Helper()
	left := func() int {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.streams)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for limit := time.After(patience); left() > 0 || s.Streams() > 0; {
		select {
		case <-tick.C: // nobody tells
		case <-limit:
			t.Fatalf("%d streams left at the original, %d here", left(), s.Streams())
		}
	}
}

// pattern returns n bytes that belong to a stream.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b)
	return b
}

// TestOriginalAgent has hundreds of streams of each fate to an agent that would
// break if it were sent a byte too many or too early.
func TestOriginalAgent(t *testing.T) {
	t.Parallel()
	for _, window := range []int{1024, 4096, 4 << 20} {
		t.Run(fmt.Sprint("window ", window), func(t *testing.T) {
			t.Parallel()
			s, o := startOriginal(t, wsmux.Server, wsmux.Options{}, func(st *originalStream) {
				fate := st.id / 2 % 5
				if fate == 4 {
					time.Sleep(time.Duration(st.id%7) * time.Millisecond) // a service that is slow to accept
				}
				st.accept(window)
				for {
					b := st.read(1 + int(st.id*977%32768))
					if b == nil || fate == 3 && len(b) > 0 || !st.write(b) { // 3: the service closes
						break
					}
				}
				st.finish()
			})
			const visitors, each = 120, 4
			var wg sync.WaitGroup
			for v := range visitors {
				wg.Go(func() {
					for i := range each {
						ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
						if v%10 == 9 {
							ctx, cancel = context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
						}
						st, err := s.Open(ctx)
						cancel()
						if err != nil {
							if v%10 != 9 {
								t.Errorf("Open: %v", err)
							}
							continue
						}
						want := pattern(1+(v*7919+i*104729)%30_000, uint64(v*each+i))
						writing := make(chan struct{})
						go func() {
							defer close(writing)
							st.Write(want)
						}()
						if v%10 == 8 { // the visitor leaves
							st.Read(make([]byte, 100))
						} else if got, err := io.ReadAll(io.LimitReader(st, int64(len(want)))); err != nil || !bytes.HasPrefix(want, got) {
							t.Errorf("got %d bytes, which are not those sent: %v", len(got), err)
						}
						st.Close()
						<-writing
					}
				})
			}
			wg.Wait()
			o.settle(t, s)
			if err := s.Err(); err != nil {
				t.Error(err)
			}
			if o.most > 100 {
				t.Errorf("%d streams waited to be accepted, want at most 100", o.most)
			}
		})
	}
}

// TestOriginalServer is the same with a server.
func TestOriginalServer(t *testing.T) {
	t.Parallel()
	for _, holds := range []int{4096, 4 << 20} {
		t.Run(fmt.Sprint("holds ", holds), func(t *testing.T) {
			t.Parallel()
			s, o := startOriginal(t, wsmux.Agent, wsmux.Options{PeerWindow: holds}, nil)
			var agent sync.WaitGroup
			agent.Go(func() {
				for n := 0; ; n++ {
					st, err := s.Accept()
					if err != nil {
						return
					}
					agent.Go(func() {
						defer st.Close()
						if n%10 == 9 || st.Accepted() != nil {
							return // the service is down
						}
						// As a service that answers while it reads: the end of
						// what comes is the end of both.
						pieces := make(chan []byte, 1000)
						answered := make(chan struct{})
						go func() {
							defer close(answered)
							for b := range pieces {
								st.Write(b)
							}
						}()
						for {
							b := make([]byte, 32<<10)
							n, err := st.Read(b)
							if err != nil {
								break
							}
							pieces <- b[:n]
						}
						close(pieces)
						st.Close()
						<-answered
					})
				}
			})
			const visitors, each = 100, 4
			var wg sync.WaitGroup
			for v := range visitors {
				wg.Go(func() {
					for i := range each {
						id := uint32(2 * (v*each + i))
						o.mu.Lock()
						st := o.addLocked(id)
						st.room = int64(holds)
						o.mu.Unlock()
						o.send(func() { o.raw.send(wsmux.SYN, id, "") })
						if !st.wait(func() bool { return st.accepted }) {
							st.finish()
							continue
						}
						want := pattern(1+(v*7919+i*104729)%30_000, uint64(id))
						wg.Go(func() {
							if v%10 == 8 {
								want = want[:len(want)/2] // it gives up, and reads nothing
								st.write(want)
								st.finish()
								return
							}
							var got []byte
							sent := make(chan struct{})
							go func() {
								defer close(sent)
								st.write(want)
							}()
							for len(got) < len(want) {
								b := st.read(4096)
								if b == nil {
									break
								}
								got = append(got, b...)
							}
							if !bytes.HasPrefix(want, got) {
								t.Errorf("stream %d: other bytes than those sent", id)
							}
							if len(got) == len(want) {
								<-sent
							}
							st.finish()
							<-sent
						})
					}
				})
			}
			wg.Wait()
			o.settle(t, s)
			if err := s.Err(); err != nil {
				t.Error(err)
			}
			o.mu.Lock()
			o.closing = true // this side closes
			o.mu.Unlock()
			s.Close()
			agent.Wait()
		})
	}
}
