package session_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"adit/internal/memnet"
	"adit/internal/testca"
	"adit/internal/wsconn"
	"adit/session"
)

// tlsPair returns both ends of a TLS conn over loopback.
func tlsPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ca := testca.New(t)
	c, s := tcpPair(t)
	ts := tls.Server(s, &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server("tunnel.test"))}})
	done := make(chan error, 1)
	go func() { done <- ts.Handshake() }()
	tc := tls.Client(c, &tls.Config{ServerName: "tunnel.test", RootCAs: ca.Pool})
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return tc, ts
}

// webSocket puts WebSocket messages on a pair.
func webSocket(pair func(testing.TB) (a, b net.Conn)) func(testing.TB) (a, b net.Conn) {
	return func(t testing.TB) (net.Conn, net.Conn) {
		a, b := pair(t)
		return wsconn.New(a, wsconn.Client, wsconn.Options{}), wsconn.New(b, wsconn.Server, wsconn.Options{})
	}
}

func memPair(testing.TB) (a, b net.Conn) { return memnet.Pipe() }

// carriers are the kinds of conn that a session has to work on.
var carriers = []struct {
	name string
	pair func(testing.TB) (a, b net.Conn)
}{
	{"memory", memPair},
	{"pipe", pipePair},
	{"tcp", tcpPair},
	{"tls", tlsPair},
	{"websocket", webSocket(tcpPair)},
	{"websocket over tls", webSocket(tlsPair)},
	{"websocket in memory", webSocket(memPair)},
}

// randomReads yields b in reads of random sizes.
type randomReads struct {
	b   []byte
	rng *rand.Rand
}

func (r *randomReads) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1+r.rng.IntN(30000))], r.b)
	r.b = r.b[n:]
	if len(r.b) == 0 && r.rng.IntN(2) == 0 {
		return n, io.EOF // with the last bytes
	}
	return n, nil
}

// sendAll sends b in one of the ways there are.
func sendAll(t testing.TB, st *session.Stream, b []byte, way int, rng *rand.Rand) error {
	switch way {
	case 0: // Write, and TryQueue where there is room
		for len(b) > 0 {
			n := min(len(b), 1+rng.IntN(200_000))
			if rng.IntN(2) == 0 {
				n = min(n, 1+rng.IntN(300))
			}
			if rng.IntN(3) == 0 && st.TryQueue(b[:n]) {
				b = b[n:]
				if rng.IntN(2) == 0 {
					st.SendQueued()
				}
				continue
			}
			if m, err := st.Write(b[:n]); err != nil || m != n {
				return fmt.Errorf("Write of %d bytes: %d, %v", n, m, err)
			}
			b = b[n:]
		}
	case 1: // ReadFrom something that cannot be waited for
		if n, err := st.ReadFrom(&randomReads{b, rng}); err != nil || n != int64(len(b)) {
			return fmt.Errorf("ReadFrom: %d, %v", n, err)
		}
	default: // ReadFrom a socket
		a, c := tcpPair(t)
		defer c.Close()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			defer a.Close()
			io.Copy(struct{ io.Writer }{a}, &randomReads{b, rng})
		})
		if n, err := st.ReadFrom(c); err != nil || n != int64(len(b)) {
			return fmt.Errorf("ReadFrom: %d, %v", n, err)
		}
	}
	return st.CloseWrite()
}

// A tryBuffer takes what it is in the mood for.
type tryBuffer struct {
	*bytes.Buffer
	rng *rand.Rand
}

func (b *tryBuffer) TryWrite(p []byte) (int, error) {
	if b.rng.IntN(3) > 0 {
		p = p[:b.rng.IntN(len(p)+1)]
	}
	return b.Write(p)
}

// readAll reads to the end in one of the ways there are.
func readAll(t testing.TB, st *session.Stream, way int, rng *rand.Rand) ([]byte, error) {
	var b bytes.Buffer
	switch way {
	case 0: // Read
		buf := make([]byte, 100_000)
		for {
			n, err := st.Read(buf[:1+rng.IntN(len(buf))])
			b.Write(buf[:n])
			if err == io.EOF {
				return b.Bytes(), nil
			}
			if err != nil {
				return b.Bytes(), err
			}
		}
	case 1: // WriteTo memory
		n, err := st.WriteTo(&b)
		if int(n) != b.Len() {
			return nil, fmt.Errorf("WriteTo returns %d after %d bytes", n, b.Len())
		}
		return b.Bytes(), err
	case 2: // WriteTo what takes some of it without waiting
		n, err := st.WriteTo(&tryBuffer{&b, rng})
		if int(n) != b.Len() {
			return nil, fmt.Errorf("WriteTo returns %d after %d bytes", n, b.Len())
		}
		return b.Bytes(), err
	default: // WriteTo a socket
		a, c := tcpPair(t)
		defer c.Close()
		var wg sync.WaitGroup
		wg.Go(func() { io.Copy(&b, c) })
		n, err := st.WriteTo(a)
		a.Close()
		wg.Wait()
		if int(n) != b.Len() {
			return nil, fmt.Errorf("WriteTo returns %d after %d bytes", n, b.Len())
		}
		return b.Bytes(), err
	}
}

// TestContent transfers random bytes in all ways, both ways at once, over all
// kinds of carriers.
func TestContent(t *testing.T) {
	t.Parallel()
	size := 2 << 20
	if testing.Short() {
		size = 1 << 19
	}
	for _, c := range carriers {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			a, b := c.pair(t)
			p := newSessions(t, a, b, nil, nil)
			var wg sync.WaitGroup
			for send := range 3 {
				for receive := range 4 {
					local, remote := p.open(t, "")
					for i, dir := range [][2]*session.Stream{{local, remote}, {remote, local}} {
						rng := rand.New(rand.NewPCG(seed, uint64(send<<8|receive<<4|i)))
						payload := make([]byte, rng.IntN(size))
						for i := range payload {
							payload[i] = byte(rng.Uint32())
						}
						rng2 := rand.New(rand.NewPCG(seed, 1+uint64(send<<8|receive<<4|i)))
						wg.Go(func() {
							if err := sendAll(t, dir[0], payload, send, rng); err != nil {
								t.Errorf("seed %d, way %d: %v", seed, send, err)
							}
						})
						wg.Go(func() {
							got, err := readAll(t, dir[1], receive, rng2)
							if err != nil || !bytes.Equal(got, payload) {
								t.Errorf("seed %d, sent in way %d, received in way %d: %d bytes, %v; want the same %d bytes",
									seed, send, receive, len(got), err, len(payload))
							}
						})
					}
				}
			}
			wg.Wait()
			waitStreams(t, p.dialler, p.listener)
			for _, s := range []*session.Session{p.dialler, p.listener} {
				settle(t, "nothing is held", func() bool {
					send, receive := s.Buffered()
					return send == 0 && receive == 0
				})
			}
		})
	}
}

// TestResumeKinds moves a session in the middle of a transfer from each kind of
// carrier to the next.
func TestResumeKinds(t *testing.T) {
	t.Parallel()
	a, b := tcpPair(t)
	p := newSessions(t, a, b, nil, nil)
	local, remote := p.open(t, "")
	payload := make([]byte, 8<<20)
	for i := range payload {
		payload[i] = byte(i ^ i>>8 ^ i>>16)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		local.Write(payload)
		local.CloseWrite()
	})
	got := make([]byte, 0, len(payload))
	for _, c := range carriers {
		n := len(payload) / (len(carriers) + 1)
		k, err := io.ReadFull(remote, got[len(got):len(got)+n])
		got = got[:len(got)+k]
		if err != nil {
			t.Fatal(err)
		}
		a, b := c.pair(t)
		if err := p.resume(t.Context(), a, b); err != nil {
			t.Fatalf("to %s: %v", c.name, err)
		}
	}
	rest, err := io.ReadAll(remote)
	if got = append(got, rest...); err != nil || !bytes.Equal(got, payload) {
		t.Errorf("%d bytes, %v; want the same %d bytes", len(got), err, len(payload))
	}
}
