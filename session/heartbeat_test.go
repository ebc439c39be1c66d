package session_test

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/memnet"
	"adit/session"
)

// A holeConn is a carrier whose path can die: from then on writes vanish, or
// block, and nothing comes any more.
type holeConn struct {
	net.Conn
	mu      sync.Mutex
	swallow bool
	stuck   chan struct{} // closed by Close; writes wait for it if blocked
	blocked bool
	closing sync.Once
}

func newHoleConn(c net.Conn) *holeConn { return &holeConn{Conn: c, stuck: make(chan struct{})} }

func (c *holeConn) die() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.swallow = true
}

func (c *holeConn) block() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blocked = true
}

func (c *holeConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	swallow, blocked := c.swallow, c.blocked
	c.mu.Unlock()
	switch {
	case blocked:
		<-c.stuck
		return 0, net.ErrClosed
	case swallow:
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *holeConn) Close() error {
	c.closing.Do(func() { close(c.stuck) })
	return c.Conn.Close()
}

// TestDeadCarrier lets a path die in ways that no conn reports. Each side gives
// the carrier up in time.
func TestDeadCarrier(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts session.Options
		do   func(h *holeConn, st *session.Stream)
		want time.Duration
	}{
		{"idle", session.Options{}, func(h *holeConn, _ *session.Stream) { h.die() }, 14 * time.Second},
		{"while sending", session.Options{}, func(h *holeConn, st *session.Stream) {
			h.die()
			st.Write(make([]byte, 100<<10))
		}, 14 * time.Second},
		{"writes block", session.Options{}, func(h *holeConn, st *session.Stream) {
			h.block()
			go st.Write(make([]byte, 1<<20))
		}, 14 * time.Second},
		{"shorter patience", session.Options{Ping: time.Second, Dead: 2 * time.Second},
			func(h *holeConn, _ *session.Stream) { h.die() }, 2 * time.Second},
		{"patience below the time between pings", session.Options{Dead: 3 * time.Second},
			func(h *holeConn, _ *session.Stream) { h.die() }, 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := memnet.Pipe()
				ha, hb := newHoleConn(a), newHoleConn(b)
				p := newSessions(t, ha, hb, &tt.opts, &tt.opts)
				local, _ := p.open(t, "")
				time.Sleep(time.Millisecond)
				begin := time.Now()
				var took [2]time.Duration
				var wg sync.WaitGroup
				for i, s := range []*session.Session{p.dialler, p.listener} {
					lost := s.Detached()
					wg.Go(func() {
						<-lost
						took[i] = time.Since(begin)
					})
				}
				ha.die()
				tt.do(hb, local)
				wg.Wait()
				// The last sign of life was a moment before begin.
				if first := min(took[0], took[1]); first < tt.want-2*time.Second || first > tt.want {
					t.Errorf("given up after %v, want %v or a bit less", first, tt.want)
				}
				if last := max(took[0], took[1]); last > 15*time.Second {
					t.Errorf("the other side gave it up after %v, want 15s at most", last)
				}
				if err := errors.Join(p.dialler.Err(), p.listener.Err()); err != nil {
					t.Errorf("session ended with its carrier: %v", err)
				}
				p.dialler.Close()
				p.listener.Close()
			})
		})
	}
}

// TestUnacknowledged has a peer that shows life but acknowledges nothing.
func TestUnacknowledged(t *testing.T) {
	for _, tt := range []struct {
		name  string
		bytes int
		lost  bool
	}{{"sent bytes", 100, true}, {"nothing was sent", 0, false}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, s := acceptRaw(t, session.NewAcceptor(nil))
				p.conn.SetDeadline(time.Time{})
				var wg sync.WaitGroup
				wg.Go(func() {
					for {
						if _, _, err := p.tryRead(); err != nil {
							return
						}
					}
				})
				wg.Go(func() {
					for range 40 { // a PING each second
						time.Sleep(time.Second)
						p.write(record(recPing, u64(0), u64(1)))
					}
				})
				time.Sleep(1300 * time.Millisecond)
				begin := time.Now()
				if tt.bytes > 0 {
					st, err := s.Open(nil)
					if err != nil {
						t.Fatal(err)
					}
					st.Write(make([]byte, tt.bytes))
				}
				select {
				case <-s.Detached():
					if took := time.Since(begin); !tt.lost || took < 13*time.Second || took > 14*time.Second {
						t.Errorf("carrier given up after %v, want after 14s: %v", took, tt.lost)
					}
				case <-time.After(30 * time.Second):
					if tt.lost {
						t.Error("carrier kept for 30s, want it given up after 14s")
					}
				}
				p.conn.Close()
				wg.Wait()
				s.Close()
			})
		})
	}
}

// A countConn counts what is written.
type countConn struct {
	net.Conn
	writes, bytes atomic.Int64
}

func (c *countConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	c.bytes.Add(int64(len(p)))
	return c.Conn.Write(p)
}

// TestIdleTraffic leaves a session with an open stream alone for an hour: only
// pings cross, and the carrier is kept.
func TestIdleTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		ca, cb := &countConn{Conn: a}, &countConn{Conn: b}
		p := newSessions(t, ca, cb, nil, nil)
		p.open(t, "")
		time.Sleep(time.Minute)
		for _, c := range []*countConn{ca, cb} {
			c.writes.Store(0)
			c.bytes.Store(0)
		}
		time.Sleep(time.Hour)
		select {
		case <-p.dialler.Detached():
			t.Fatal("carrier of an idle session was given up")
		case <-p.listener.Detached():
			t.Fatal("carrier of an idle session was given up")
		default:
		}
		// The dialler pings each 9 s and the listener answers: 400 of 20 bytes.
		for name, c := range map[string]*countConn{"dialler": ca, "listener": cb} {
			if n := c.writes.Load(); n < 350 || n > 400 {
				t.Errorf("%s wrote %d times in an hour, want about 400", name, n)
			}
			if n, w := c.bytes.Load(), c.writes.Load(); n != 20*w {
				t.Errorf("%s wrote %d bytes in %d writes, want 20 each", name, n, w)
			}
		}
		p.dialler.Close()
		p.listener.Close()
	})
}

// TestPing asks for PONG: the newest token comes back, with the position.
func TestPing(t *testing.T) {
	t.Parallel()
	p, _ := acceptRaw(t, session.NewAcceptor(nil))
	p.send(frame(frOpen, 1))
	p.write(record(recPing, u64(0), u64(0xfeedface)))
	for {
		kind, body := p.read()
		if kind != recPong {
			continue
		}
		if want := join(u64(12), u64(0xfeedface)); string(body) != string(want) {
			t.Errorf("PONG %x, want %x", body, want)
		}
		return
	}
}

// TestUnansweredPings has a peer that sends records of a later version only:
// it lives, and is asked again each time that it falls silent.
func TestUnansweredPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := acceptRaw(t, session.NewAcceptor(&session.Options{Ping: 2 * time.Second, Dead: 5 * time.Second}))
		p.conn.SetDeadline(time.Time{})
		p.noPong = true
		for range 3 {
			for want := p.pings + 1; p.pings < want; {
				if !p.take() {
					t.Fatalf("carrier given up after %d pings, want it kept", p.pings)
				}
			}
			p.write(record(0x66, []byte("alive")))
		}
		s.Close()
	})
}
