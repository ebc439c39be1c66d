package tcpws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// running runs serve until the test ends.
func running(t testing.TB, serve func(context.Context, net.Listener) error) (addr string) {
	t.Helper()
	l := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// A path is a client and a server, and the target behind them.
type path struct {
	target net.Listener
	caller string // where the client listens
	server *Server
	client *Client
	passed chan struct{} // of an original server: something from the target was sent on
}

// newPath returns a path of our own two ends. If original, each takes the other
// for an original.
func newPath(t testing.TB, original bool) *path {
	t.Helper()
	p := &path{target: listen(t)}
	p.server = NewServer(ServerOptions{Target: p.target.Addr().String(), Metrics: NewMetrics()})
	at := running(t, p.server.Serve)
	through := at
	if original {
		through = running(t, func(ctx context.Context, l net.Listener) error { return forgetful(ctx, l, at) })
	}
	p.client = NewClient(ClientOptions{URL: "ws://" + through})
	p.caller = running(t, p.client.Serve)
	return p
}

// forgetful passes conns on without the header that tells our own, so that each
// end takes the other for an original.
func forgetful(ctx context.Context, l net.Listener, to string) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		a, err := l.Accept()
		if err != nil {
			return nil
		}
		wg.Go(func() {
			defer a.Close()
			head := make([]byte, 4096)
			n := 0
			for !bytes.Contains(head[:n], []byte("\r\n\r\n")) {
				m, err := a.Read(head[n:])
				if err != nil {
					return
				}
				n += m
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer b.Close()
			quiet := bytes.Replace(head[:n], []byte(headerFeatures), []byte("X-Nothing"), 1)
			b.Write(quiet)
			wg.Go(func() {
				io.Copy(b, a)
				b.(*net.TCPConn).CloseWrite()
			})
			io.Copy(a, b)
			a.(*net.TCPConn).CloseWrite()
		})
	}
}

// open returns both ends of a connection through the path.
func (p *path) open(t testing.TB) (caller, target *net.TCPConn) {
	t.Helper()
	c, err := net.Dial("tcp", p.caller)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	p.target.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	s, err := p.target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c.SetDeadline(time.Now().Add(patience))
	s.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func TestBulkBothWays(t *testing.T) {
	t.Parallel()
	for name, original := range map[string]bool{"our own": false, "with masks": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPath(t, original)
			a, b := p.open(t)
			const size = 24 << 20
			send := func(c net.Conn, seed uint64) (sum [32]byte) {
				data := make([]byte, size)
				r := rand.NewChaCha8([32]byte{byte(seed)})
				r.Read(data)
				for rest := data; len(rest) > 0; {
					n := min(len(rest), 1+int(r.Uint64()%(3<<20)))
					if _, err := c.Write(rest[:n]); err != nil {
						t.Errorf("write: %v", err)
						break
					}
					rest = rest[n:]
				}
				return sha256.Sum256(data)
			}
			receive := func(c net.Conn) (sum [32]byte) {
				h := sha256.New()
				if n, err := io.CopyN(h, c, size); err != nil {
					t.Errorf("received %d bytes: %v", n, err)
				}
				return [32]byte(h.Sum(nil))
			}
			var sent, got [2][32]byte
			var wg sync.WaitGroup
			wg.Go(func() { sent[0] = send(a, 1) })
			wg.Go(func() { sent[1] = send(b, 2) })
			wg.Go(func() { got[0] = receive(b) })
			wg.Go(func() { got[1] = receive(a) })
			wg.Wait()
			if got != sent {
				t.Error("what came is not what was sent")
			}
		})
	}
}

func TestHalfClose(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	for name, swap := range map[string]bool{"of the caller": false, "of the target": true} {
		t.Run(name, func(t *testing.T) {
			a, b := p.open(t)
			if swap {
				a, b = b, a
			}
			io.WriteString(a, "request")
			a.CloseWrite()
			if got, err := io.ReadAll(b); string(got) != "request" || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
			io.WriteString(b, "answer")
			b.Close()
			if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
				t.Errorf("got %q, %v, want the answer", got, err)
			}
		})
	}
}

func TestResetGoesThrough(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	for name, swap := range map[string]bool{"of the caller": false, "of the target": true} {
		t.Run(name, func(t *testing.T) {
			a, b := p.open(t)
			if swap {
				a, b = b, a
			}
			io.WriteString(a, "some")
			if _, err := io.ReadFull(b, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
			abort(a)
			if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want a reset", err)
			}
		})
	}
}

// TestOriginalPeer holds an end to what the original can take: binary messages,
// and a close frame without a code.
func TestOriginalPeer(t *testing.T) {
	t.Parallel()
	p := newPath(t, true)
	a, b := p.open(t)
	io.WriteString(a, "request")
	a.CloseWrite()
	if got, err := io.ReadAll(b); string(got) != "request" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	// The other end is one of our own and reads on, although it does not know that.
	io.WriteString(b, "answer")
	b.Close()
	if got, err := io.ReadAll(a); err != nil {
		t.Errorf("got %q, %v, want an end", got, err)
	}
}

func TestTargetDown(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	p.target.Close()
	c, err := net.Dial("tcp", p.caller)
	if errors.Is(err, syscall.ECONNRESET) {
		return // before the caller knew that it was connected
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

// TestStalledReaderStallsItselfAlone fills one connection whose target reads
// nothing, and uses another.
func TestStalledReaderStallsItselfAlone(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	stalled, _ := p.open(t)
	stalled.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	const most = 512 << 20 // more than the buffers of all sockets between may grow to
	var err error
	n := 0
	for b := make([]byte, 1<<20); err == nil && n < most; {
		var m int
		m, err = stalled.Write(b)
		n += m
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes went to a target that reads nothing: %v", n, err)
	}
	a, b := p.open(t)
	io.WriteString(a, "hello")
	if _, err := io.ReadFull(b, make([]byte, 5)); err != nil {
		t.Errorf("the other connection: %v", err)
	}
}

func TestMalformedFrames(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	for name, tt := range map[string]struct {
		frame string
		code  int // of the close frame; 0 for none
	}{
		"not masked":              {"\x82\x01a", 1002},
		"reserved bits":           {"\xc2\x81\x00\x00\x00\x00a", 1002},
		"reserved opcode":         {"\x83\x80\x00\x00\x00\x00", 1002},
		"continuation of nothing": {"\x80\x81\x00\x00\x00\x00a", 1002},
		"fragmented ping":         {"\x09\x80\x00\x00\x00\x00", 1002},
		"text":                    {"\x81\x84\x00\x00\x00\x00text", 0},
		"long text":               {"\x81\xfe\xff\xff\x00\x00\x00\x00", 0},
		"half a close code":       {"\x88\x81\x00\x00\x00\x00\x03", 1002},
		"close code 1005":         {"\x88\x82\x00\x00\x00\x00\x03\xed", 1002},
		"close code 5":            {"\x88\x82\x00\x00\x00\x00\x00\x05", 1002},
		"close code 1001":         {"\x88\x82\x00\x00\x00\x00\x03\xe9", 1001},
		"close text is no text":   {"\x88\x83\x00\x00\x00\x00\x03\xe8\xff", 1002},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := p.handshake(t, "")
			io.WriteString(c, tt.frame)
			began := time.Now()
			got, err := io.ReadAll(c)
			if dur := time.Since(began); err != nil || dur > drainTime/2 {
				t.Errorf("got %v after %v, want an end at once", err, dur)
			}
			want := "\x88\x00"
			if tt.code != 0 {
				want = string([]byte{byte(tt.code >> 8), byte(tt.code)})
			}
			if !bytes.Contains(got, []byte(want)) || got[0] != 0x88 {
				t.Errorf("got %x, want a close frame with %x", got, want)
			}
		})
	}
}

// handshake opens a WebSocket to the server by hand.
func (p *path) handshake(t testing.TB, header string) (ws net.Conn, target net.Conn) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.client.opts.URL, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"+header+"\r\n")
	p.target.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	target, err = p.target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	var head []byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		b := make([]byte, 1)
		if _, err := c.Read(b); err != nil {
			t.Fatalf("%v after %q", err, head)
		}
		head = append(head, b...)
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("answer is %q", head)
	}
	if has := strings.Contains(string(head), headerFeatures); has != (header != "") {
		t.Errorf("answer is %q to the header %q", head, header)
	}
	return c, target
}

// TestAgainstALibrary pings and fragments with another implementation.
func TestAgainstALibrary(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, p.client.opts.URL+"/any/path?x=y", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://elsewhere.example"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	target, err := p.target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	w, err := ws.Writer(ctx, websocket.MessageBinary)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "in two ")
	io.WriteString(w, "parts")
	w.Close()
	got := make([]byte, 12)
	if _, err := io.ReadFull(target, got); err != nil || string(got) != "in two parts" {
		t.Fatalf("got %q, %v", got, err)
	}
	pinged := make(chan error, 1)
	go func() { // the pong is taken by the Read below
		pinged <- ws.Ping(ctx)
		io.WriteString(target, "bye")
	}()
	if _, b, err := ws.Read(ctx); err != nil || string(b) != "bye" {
		t.Errorf("read %q, %v", b, err)
	}
	target.Close()
	_, _, err = ws.Read(ctx)
	if got := websocket.CloseStatus(err); got != websocket.StatusNoStatusRcvd {
		t.Errorf("closed with %v, want no code", err)
	}
	if err := <-pinged; err != nil {
		t.Errorf("ping: %v", err)
	}
}

func TestFeatures(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]features{
		"":                            {},
		"ends":                        {ends: true},
		"ends, zero-mask":             {ends: true, zeroMask: true},
		"zero-mask,something-of-2030": {zeroMask: true},
		"Ends":                        {},
	} {
		if got := parseFeatures([]string{text}); got != want {
			t.Errorf("%q is %+v, want %+v", text, got, want)
		}
	}
	if got := (features{ends: true, zeroMask: true}).String(); got != "ends, zero-mask" {
		t.Errorf("got %q", got)
	}
}

// FuzzLink sends bytes to an end behind a handshake: whatever they are, the link
// ends when they do.
func FuzzLink(f *testing.F) {
	f.Add([]byte("\x82\x85\x01\x02\x03\x04hello"), false, false)
	f.Add([]byte("\x02\x81\x01\x02\x03\x04h\x80\x80\x00\x00\x00\x00"), false, false)
	f.Add([]byte("\x81\x83\x00\x00\x00\x00end\x88\x80\x00\x00\x00\x00"), true, false)
	f.Add([]byte("\x81\x85\x00\x00\x00\x00reset"), true, false)
	f.Add([]byte("\x89\x84\x00\x00\x00\x00ping\x88\x82\x00\x00\x00\x00\x03\xe8"), true, false)
	f.Add([]byte("\x82\xff\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00data"), true, false)
	f.Add([]byte("\x02\x02he\x89\x00\x80\x03llo\x81\x03end\x88\x02\x03\xe8"), true, true)
	f.Add([]byte("\x82\x7f\x00\x00\x00\x00\x00\x04\x00\x00data"), false, true)
	f.Fuzz(func(t *testing.T, b []byte, ends, client bool) {
		wsA, wsB := net.Pipe()
		tcpA, tcpB := net.Pipe()
		l := newLink(wsB, tcpB)
		l.features, l.client = features{ends: ends}, client
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run()
		}()
		go io.Copy(io.Discard, wsA)
		go io.Copy(io.Discard, tcpA)
		wsA.Write(b)
		wsA.Close()
		tcpA.Close()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the link goes on after both its ends")
		}
	})
}
