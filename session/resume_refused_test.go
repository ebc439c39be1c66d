package session_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/memnet"
	"adit/session"
)

// resumeRaw sends greeting on a new carrier to a, and returns the answer.
func resumeRaw(t *testing.T, a *session.Acceptor, greeting []byte, may func(*session.Session) bool) (kind byte, body []byte, s *session.Session) {
	t.Helper()
	near, far := memnet.Pipe()
	p := newRawPeer(t, near)
	p.write(greeting)
	s, _, _ = a.Accept(t.Context(), far, nil, may)
	kind, body = p.read()
	return kind, body, s
}

// TestResumeRefused tries to resume a session in ways that must not work.
func TestResumeRefused(t *testing.T) {
	t.Parallel()
	unchanged := func(b []byte) []byte { return b }
	for _, tt := range []struct {
		name    string
		attempt uint64
		// received is where the other side is told that the dialler stands:
		// 100 bytes were sent and 50 acknowledged.
		received uint64
		mangle   func([]byte) []byte
		may      func(*session.Session) bool
		want     byte // code of REJECT, or 0 for WELCOME
		touched  bool // the old carrier may be gone
	}{
		{"right", 6, 60, unchanged, nil, 0, true},
		{"at what was acknowledged", 6, 50, unchanged, nil, 0, true},
		{"at what was sent", 6, 100, unchanged, nil, 0, true},
		{"attempt of the future", 1 << 60, 60, unchanged, nil, 0, true},
		{"wrong proof", 6, 60, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, nil, 2, false},
		{"proof of another attempt", 6, 60, func(b []byte) []byte {
			return bytes.Replace(b, uintField(tagAttempt, 6), uintField(tagAttempt, 7), 1)
		}, nil, 2, false},
		{"proof of another position", 6, 60, func(b []byte) []byte {
			return bytes.Replace(b, uintField(tagReceived, 60), uintField(tagReceived, 61), 1)
		}, nil, 2, false},
		{"attempt used before", 5, 60, unchanged, nil, 2, false},
		{"attempt below one used before", 4, 60, unchanged, nil, 2, false},
		{"attempt 0", 0, 60, unchanged, nil, 2, false},
		{"somebody else's", 6, 60, unchanged, func(*session.Session) bool { return false }, 2, false},
		{"before what was acknowledged", 6, 49, unchanged, nil, 3, true},
		{"beyond what was sent", 6, 101, unchanged, nil, 3, true},
		{"far beyond", 6, 1<<64 - 1, unchanged, nil, 3, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := session.NewAcceptor(nil)
			p, s := acceptRaw(t, a)
			// A first resume with attempt 5, then 100 bytes, of which the other
			// side acknowledges 50.
			p2, _, err := tryRaw(t, a, p.resumeHello(5, 0))
			if err != nil {
				t.Fatal(err)
			}
			p2.id, p2.secret = p.id, p.secret
			p = p2
			st, err := s.Open(make([]byte, 38))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Write(make([]byte, 38)); err != nil {
				t.Fatal(err)
			}
			p.want(frOpen, 2)
			p.want(frData, 2)
			call := frame(frCall, 1, u16(999))
			p.write(record(recBatch, u64(50), u64(p.seq), call))
			p.seq += uint64(len(call))
			p.want(frResult, 1) // the acknowledgement has been seen
			sent := p.taken.Load()
			if tt.received == 100 {
				tt.received = sent
			} else if tt.received == 101 {
				tt.received = sent + 1
			}

			kind, body, got := resumeRaw(t, a, tt.mangle(p.resumeHello(tt.attempt, tt.received)), tt.may)
			if tt.want == 0 {
				if kind != recWelcome || got != s {
					t.Fatalf("answer of kind %#x for session %p, want WELCOME for %p", kind, got, s)
				}
				return
			}
			if kind != recReject || body[1] != tt.want {
				t.Fatalf("answer of kind %#x, %x, want REJECT %d", kind, body, tt.want)
			}
			if tt.want == 2 {
				_, unknown, _ := resumeRaw(t, a, (&rawPeer{id: make([]byte, 16)}).resumeHello(1, 0), nil)
				if !bytes.Equal(body, unknown) {
					t.Errorf("REJECT is %x, and %x for an unknown session; want no difference", body, unknown)
				}
			}
			if err := s.Err(); err != nil {
				t.Errorf("session ended: %v", err)
			}
			if !tt.touched {
				if !s.Attached() {
					t.Error("session lost its carrier")
				}
				p.wantAlive(2)
			}
		})
	}
}

// TestResumeProvesListener gives a dialler a listener that does not know the
// secret.
func TestResumeProvesListener(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		proof  func(p *rawPeer) []byte
		at     uint64
		id     byte
		refuse bool
		ends   bool
	}{
		{"right", func(p *rawPeer) []byte { return proofOf(p.secret, "listener", p.id, 1, 0) }, 0, 1, false, false},
		{"the dialler's own", func(p *rawPeer) []byte { return proofOf(p.secret, "dialler", p.id, 1, 0) }, 0, 1, true, false},
		{"none", func(*rawPeer) []byte { return make([]byte, 32) }, 0, 1, true, false},
		{"other session", func(p *rawPeer) []byte { return proofOf(p.secret, "listener", p.id, 1, 0) }, 0, 9, true, false},
		{"beyond what was sent", func(p *rawPeer) []byte { return proofOf(p.secret, "listener", p.id, 1, 1) }, 1, 1, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, s := dialRaw(t, nil)
			near, far := memnet.Pipe()
			p2 := newRawPeer(t, near)
			p2.write(record(recWelcome, []byte{1}, field(tagSession, bytes.Repeat([]byte{tt.id}, 16)),
				uintField(tagReceived, tt.at), field(tagProof, tt.proof(p))))
			err := s.Resume(t.Context(), far)
			if (err != nil) != tt.refuse {
				t.Fatalf("Resume: %v, want an error: %v", err, tt.refuse)
			}
			if got := s.Err(); errors.Is(got, session.ErrLost) != tt.ends {
				t.Errorf("session has ended with %v, want ErrLost: %v", got, tt.ends)
			}
			// The offer must hold the dialler's proof of what it says.
			_, body := p2.read()
			f := fields(t, body[6:])
			attempt, _ := binary.Uvarint(f[tagAttempt])
			received, _ := binary.Uvarint(f[tagReceived])
			if want := proofOf(p.secret, "dialler", p.id, attempt, received); !bytes.Equal(f[tagProof], want) {
				t.Errorf("proof is %x, want %x", f[tagProof], want)
			}
		})
	}
}

// TestResumeGone ends a session at the dialler when the listener has forgotten
// it.
func TestResumeGone(t *testing.T) {
	t.Parallel()
	a, b := memnet.Pipe()
	p := newSessions(t, a, b, nil, nil)
	local, remote := p.open(t, "")
	a.Close() // the listener's CLOSE is lost
	p.listener.Close()
	a, b = memnet.Pipe()
	err := p.resume(t.Context(), a, b)
	var re *session.RejectedError
	if !errors.As(err, &re) || re.Code != 2 {
		t.Errorf("Resume: %v, want a RejectedError with code 2", err)
	}
	for name, err := range map[string]error{
		"Session.Err": ended(t, p.dialler),
		"Read":        errOf(remote.Read(make([]byte, 1))),
		"Write":       errOf(remote.Write(make([]byte, 1))),
	} {
		if !errors.Is(err, session.ErrLost) {
			t.Errorf("%s: %v, want ErrLost", name, err)
		}
	}
	local.Close()
}

func errOf(_ int, err error) error { return err }

// TestLostAfterWindow leaves a session without carrier: it ends on both sides
// when the smaller of the two resume windows is over, and not before.
func TestLostAfterWindow(t *testing.T) {
	for _, tt := range []struct {
		name                    string
		dialler, listener, want time.Duration
	}{
		{"default", 0, 0, time.Minute},
		{"dialler has the smaller", 5 * time.Second, 20 * time.Second, 5 * time.Second},
		{"listener has the smaller", 20 * time.Second, 5 * time.Second, 5 * time.Second},
		{"none", 0, -1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := memnet.Pipe()
				p := newSessions(t, a, b, &session.Options{ResumeWindow: tt.dialler}, &session.Options{ResumeWindow: tt.listener})
				local, remote := p.open(t, "")
				a.Close()
				b.Close()
				if tt.want > 0 {
					time.Sleep(tt.want - time.Millisecond)
					synctest.Wait()
					if d, l := p.dialler.Err(), p.listener.Err(); d != nil || l != nil {
						t.Errorf("ended before the window is over: dialler %v, listener %v", d, l)
					}
					time.Sleep(time.Millisecond)
				}
				synctest.Wait()
				for name, err := range map[string]error{
					"dialler":      p.dialler.Err(),
					"listener":     p.listener.Err(),
					"local Read":   errOf(local.Read(make([]byte, 1))),
					"remote Write": errOf(remote.Write(make([]byte, 1))),
				} {
					if !errors.Is(err, session.ErrLost) {
						t.Errorf("%s: %v, want ErrLost", name, err)
					}
				}
				if n := p.acceptor.Len(); n != 0 {
					t.Errorf("acceptor keeps %d sessions, want none", n)
				}
				a, b = memnet.Pipe()
				if err := p.resume(t.Context(), a, b); !errors.Is(err, session.ErrLost) {
					t.Errorf("Resume: %v, want ErrLost", err)
				}
			})
		})
	}
}

// TestWindowStartsAnew resumes a session again and again, each time shortly
// before its window is over.
func TestWindowStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		p := newSessions(t, a, b, nil, nil)
		for range 5 {
			a.Close()
			b.Close()
			time.Sleep(59 * time.Second)
			a, b = memnet.Pipe()
			if err := p.resume(t.Context(), a, b); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			if err := errors.Join(p.dialler.Err(), p.listener.Err()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestTakeover resumes from another address while the listener, and the dialler
// in one case, still have the old carrier, in the middle of a transfer.
func TestTakeover(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		cut  bool // the dialler has lost the old carrier
	}{{"old carrier alive", false}, {"dialler has lost it", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			dial := func(from string) (a, b net.Conn) {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
				if a, err = d.DialContext(ctx, "tcp", ln.Addr().String()); err != nil {
					t.Skipf("no second loopback address here: %v", err)
				}
				if b, err = ln.Accept(); err != nil {
					t.Fatal(err)
				}
				return a, b
			}
			a, b := dial("127.0.0.1")
			// The listener's side of the old carrier never hears of its end.
			gate := &deafConn{Conn: a, held: make(chan struct{})}
			p := newSessions(t, gate, b, nil, nil)
			local, remote := p.open(t, "")

			payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			go func() {
				local.Write(payload)
				local.CloseWrite()
			}()
			got := make([]byte, len(payload))
			if _, err := io.ReadFull(remote, got[:100<<10]); err != nil {
				t.Fatal(err)
			}
			if tt.cut {
				gate.cut()
				<-p.dialler.Detached()
			}
			if !p.listener.Attached() {
				t.Fatal("listener noticed the end of the old carrier, and must not for this test")
			}
			a2, b2 := dial("127.0.0.2")
			if err := p.resume(ctx, a2, b2); err != nil {
				t.Fatalf("Resume: %v", err)
			}
			if _, err := io.ReadFull(remote, got[100<<10:]); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, payload) {
				t.Error("other bytes arrived than were sent")
			}
			if host, _, _ := net.SplitHostPort(p.listener.RemoteAddr().String()); host != "127.0.0.2" {
				t.Errorf("listener's carrier comes from %s, want 127.0.0.2", host)
			}
			if _, err := b.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write on the replaced carrier: %v, want net.ErrClosed", err)
			}
		})
	}
}

// A deafConn can end on its own side without the other side hearing of it.
type deafConn struct {
	net.Conn
	held chan struct{}
}

func (c *deafConn) cut() {
	close(c.held)
	c.Conn.SetReadDeadline(time.Unix(1, 0))
}

func (c *deafConn) Write(p []byte) (int, error) {
	select {
	case <-c.held:
		return 0, errors.New("cut")
	default:
		return c.Conn.Write(p)
	}
}

func (c *deafConn) Close() error {
	select {
	case <-c.held:
		return nil // the socket is closed by the listener's side
	default:
		return c.Conn.Close()
	}
}
