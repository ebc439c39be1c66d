package wsconn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// rawFrame returns a frame with any bits that a test wants, masked with a key of
// its own if masked.
func rawFrame(b0 byte, masked bool, payload string) []byte {
	f := []byte{b0}
	switch n := len(payload); {
	case n <= 125:
		f = append(f, byte(n))
	case n <= 0xffff:
		f = binary.BigEndian.AppendUint16(append(f, 126), uint16(n))
	default:
		f = binary.BigEndian.AppendUint64(append(f, 127), uint64(n))
	}
	if !masked {
		return append(f, payload...)
	}
	f[1] |= bitMask
	key := []byte{0x9d, 0x01, 0xfe, 0x33}
	f = append(f, key...)
	for i := range len(payload) {
		f = append(f, payload[i]^key[i&3])
	}
	return f
}

// readFrame reads one small frame that c sent to peer.
func readFrame(t *testing.T, peer net.Conn) (op byte, payload string) {
	t.Helper()
	peer.SetReadDeadline(time.Now().Add(10 * time.Second))
	var h [2]byte
	if _, err := io.ReadFull(peer, h[:]); err != nil {
		t.Fatalf("reading a frame: %v", err)
	}
	n, key := int(h[1]&^bitMask), []byte{0, 0, 0, 0}
	if n > 125 {
		t.Fatalf("frame with length code %d, want a small one", n)
	}
	if h[1]&bitMask != 0 {
		io.ReadFull(peer, key)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(peer, p); err != nil {
		t.Fatalf("reading a frame: %v", err)
	}
	for i := range p {
		p[i] ^= key[i&3]
	}
	return h[0] & 0x0f, string(p)
}

func code(n uint16, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, n)) + reason
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	long := func(b0, length byte, rest ...byte) []byte { // masked, with a raw length
		return append(append([]byte{b0, bitMask | length}, rest...), 1, 2, 3, 4)
	}
	for _, tt := range []struct {
		name   string
		sent   []byte
		client bool // the Conn is the client
		code   int
		reason string
	}{
		{name: "RSV1", sent: rawFrame(0xc2, true, "x"), code: 1002, reason: "reserved bits"},
		{name: "RSV2", sent: rawFrame(0xa2, true, "x"), code: 1002, reason: "reserved bits"},
		{name: "RSV3", sent: rawFrame(0x92, true, "x"), code: 1002, reason: "reserved bits"},
		{name: "reserved data opcode", sent: rawFrame(0x83, true, "x"), code: 1002, reason: "opcode 0x3"},
		{name: "reserved control opcode", sent: rawFrame(0x8b, true, "x"), code: 1002, reason: "opcode 0xb"},
		{name: "HTTP instead of frames", sent: []byte("GET / HTTP/1.1\r\n\r\n"), code: 1002, reason: "reserved bits"},
		{name: "fragmented ping", sent: rawFrame(0x09, true, "x"), code: 1002, reason: "fragmented control"},
		{name: "long ping", sent: rawFrame(0x89, true, strings.Repeat("x", 126)), code: 1002, reason: "over 125"},
		{name: "long close", sent: long(0x88, 127, 0, 0, 0, 0, 0, 1, 0, 0), code: 1002, reason: "over 125"},
		{name: "unmasked from client", sent: rawFrame(0x82, false, "x"), code: 1002, reason: "without mask"},
		{name: "masked from server", sent: rawFrame(0x82, true, "x"), client: true, code: 1002, reason: "masked frame"},
		{name: "16 bits for 125", sent: long(0x82, 126, 0, 125), code: 1002, reason: "length 125 is not"},
		{name: "64 bits for 65535", sent: long(0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff), code: 1002, reason: "length 65535 is not"},
		{name: "highest bit", sent: long(0x82, 127, 0x80, 0, 0, 0, 0, 1, 0, 0), code: 1002, reason: "highest bit"},
		{name: "over the limit", sent: long(0x82, 127, 0, 0, 0, 0, 1, 0, 0, 1), code: 1009, reason: "length 16777217 is over the limit of 16777216"},
		{name: "largest length", sent: long(0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255), code: 1009, reason: "over the limit"},
		{name: "continuation first", sent: rawFrame(0x80, true, "x"), code: 1002, reason: "continuation"},
		{name: "new message in a fragmented one", sent: append(rawFrame(0x02, true, ""), rawFrame(0x82, true, "x")...), code: 1002, reason: "inside of a fragmented"},
		{name: "text", sent: rawFrame(0x81, true, "x"), code: 1003, reason: "text message"},
		{name: "close of one byte", sent: rawFrame(0x88, true, "x"), code: 1002, reason: "one byte"},
		{name: "close with code 999", sent: rawFrame(0x88, true, code(999, "")), code: 1002, reason: "code that must not"},
		{name: "close with code 1005", sent: rawFrame(0x88, true, code(1005, "")), code: 1002, reason: "code that must not"},
		{name: "close with code 1015", sent: rawFrame(0x88, true, code(1015, "")), code: 1002, reason: "code that must not"},
		{name: "close with code 5000", sent: rawFrame(0x88, true, code(5000, "")), code: 1002, reason: "code that must not"},
		{name: "close with a reason not in UTF-8", sent: rawFrame(0x88, true, code(1000, "\xff")), code: 1007, reason: "UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			peer, sock := pipes["tcp"](t)
			role := Server
			if tt.client {
				role = Client
			}
			c := New(sock, role, Options{})
			defer c.Close()
			before := rawFrame(0x82, role == Server, "before")
			peer.Write(append(before, tt.sent...))
			buf := make([]byte, 100)
			if _, err := io.ReadFull(c, buf[:6]); err != nil || string(buf[:6]) != "before" {
				t.Fatalf("Read = %q, %v; want what came before", buf[:6], err)
			}
			for range 2 {
				_, err := c.Read(buf)
				var pe *ProtocolError
				if !errors.As(err, &pe) || pe.Code != tt.code || !strings.Contains(pe.Reason, tt.reason) {
					t.Fatalf("Read = %v, want code %d and %q", err, tt.code, tt.reason)
				}
			}
			op, payload := readFrame(t, peer)
			if op != opClose || !strings.HasPrefix(payload, code(uint16(tt.code), "")) {
				t.Errorf("answer is opcode %#x, %q; want a close frame with code %d", op, payload, tt.code)
			}
			if _, err := c.Write([]byte("x")); err != errCloseSent {
				t.Errorf("Write = %v, want %v", err, errCloseSent)
			}
		})
	}
}

func TestMaxFrame(t *testing.T) {
	t.Parallel()
	peer, sock := pipes["tcp"](t)
	c := New(sock, Server, Options{MaxFrame: 10})
	peer.Write(append(rawFrame(0x82, true, "0123456789"), rawFrame(0x82, true, "0123456789a")...))
	got, err := io.ReadAll(c)
	var pe *ProtocolError
	if string(got) != "0123456789" || !errors.As(err, &pe) || pe.Code != 1009 {
		t.Errorf("Read = %q, %v; want the first frame and code 1009", got, err)
	}
}

func TestFragments(t *testing.T) {
	t.Parallel()
	for _, role := range []Role{Server, Client} {
		masked := role == Server
		var sent []byte
		for _, f := range []struct {
			b0      byte
			payload string
		}{
			{0x02, "Hel"}, {0x89, "ping one"}, {0x00, ""}, {0x8a, "unasked"}, {0x00, "lo, "},
			{0x89, strings.Repeat("p", 125)}, {0x80, "world"}, {0x82, ""}, {0x82, "!"}, {0x88, ""},
		} {
			sent = append(sent, rawFrame(f.b0, masked, f.payload)...)
		}
		for _, size := range []int{1, 2, 7, 33, 4096} {
			peer, sock := pipes["tcp"](t)
			c := New(sock, role, Options{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for part := range bytes.SplitAfterSeq(sent, []byte("p")) {
					peer.Write(part)
				}
			})
			var got []byte
			var err error
			for buf := make([]byte, size); err == nil; {
				var n int
				n, err = c.Read(buf)
				got = append(got, buf[:n]...)
			}
			if string(got) != "Hello, world!" || err != io.EOF {
				t.Errorf("role %d, reads of %d bytes: got %q, %v", role, size, got, err)
			}
			wg.Wait()
			for _, want := range []string{"\x0aping one", "\x0a" + strings.Repeat("p", 125), "\x08"} {
				op, p := readFrame(t, peer)
				if got := string([]byte{op}) + p; got != want {
					t.Errorf("role %d, reads of %d bytes: answer %q, want %q", role, size, got, want)
				}
			}
		}
	}
}

func TestClosedByPeer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		payload string
		want    error
		text    string
		answer  string
	}{
		{name: "without code", payload: "", want: io.EOF},
		{name: "normal", payload: code(1000, "bye"), want: io.EOF, answer: code(1000, "")},
		{name: "going away", payload: code(1001, ""), want: io.EOF, answer: code(1001, "")},
		{name: "internal error", payload: code(1011, "oh\nno"), text: `closed by the other end with code 1011: "oh\nno"`, answer: code(1011, "")},
		{name: "private code", payload: code(4999, ""), text: "closed by the other end with code 4999", answer: code(4999, "")},
	} {
		for _, way := range []string{"tcp", "tls"} {
			t.Run(way+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				peer, sock := pipes[way](t)
				c := New(sock, Server, Options{})
				defer c.Close()
				peer.Write(append(rawFrame(0x88, true, tt.payload), rawFrame(0x82, true, "too late")...))
				_, err := c.Read(make([]byte, 100))
				var ce *CloseError
				if tt.want != nil && err != tt.want || tt.want == nil && (!errors.As(err, &ce) || !strings.Contains(err.Error(), tt.text)) {
					t.Errorf("Read = %v, want %v%s", err, tt.want, tt.text)
				}
				if op, p := readFrame(t, peer); op != opClose || p != tt.answer {
					t.Errorf("answer is opcode %#x, %q; want a close frame with %q", op, p, tt.answer)
				}
				if _, err := c.Write([]byte("x")); err != errCloseSent {
					t.Errorf("Write = %v, want %v", err, errCloseSent)
				}
			})
		}
	}
}

func TestCloseSendsCloseFrame(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"tcp", "unix", "tls"} {
		for _, role := range []Role{Server, Client} {
			peer, sock := pipes[way](t)
			New(sock, role, Options{}).Close()
			if op, p := readFrame(t, peer); op != opClose || p != code(1000, "") {
				t.Errorf("%s: Close sent opcode %#x, %q; want a close frame with code 1000", way, op, p)
			}
			if n, err := peer.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s: Read after the close frame = %d, %v; want EOF", way, n, err)
			}
		}
	}
}

// A pong that cannot leave at once goes in front of the next message, and only
// the newest one is kept.
func TestPongBeforeMessage(t *testing.T) {
	t.Parallel()
	peer, sock := net.Pipe() // nothing can leave at once
	c := New(sock, Server, Options{})
	defer c.Close()
	defer peer.Close()
	for _, p := range []string{"first", "second"} {
		go peer.Write(append(rawFrame(0x89, true, p), rawFrame(0x82, true, p)...))
		buf := make([]byte, 100)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != p {
			t.Fatalf("Read = %q, %v; want %q", buf[:n], err, p)
		}
	}
	go c.Write([]byte("data"))
	for _, want := range []string{"\x0asecond", "\x02data"} {
		op, p := readFrame(t, peer)
		if got := string([]byte{op}) + p; got != want {
			t.Errorf("got frame %q, want %q", got, want)
		}
	}
}

// A peer that sends pings and reads nothing must not block the reader or grow
// the memory, and what is sent afterwards is intact.
func TestPingFlood(t *testing.T) {
	// Not parallel: it measures the memory of the process.
	for _, way := range []string{"tcp", "tls", "pipe"} {
		t.Run(way, func(t *testing.T) {
			peer, sock := pipes[way](t)
			if tcp, ok := socket(sock).(*net.TCPConn); ok {
				tcp.SetWriteBuffer(8 << 10)
				socket(peer).(*net.TCPConn).SetReadBuffer(64 << 10)
			}
			c := New(sock, Server, Options{})
			defer c.Close()
			const count = 20000
			flood := bytes.Repeat(rawFrame(0x89, true, strings.Repeat("p", 125)), 100)
			var wg sync.WaitGroup
			wg.Go(func() {
				for range count / 100 {
					peer.Write(flood)
				}
				peer.Write(rawFrame(0x82, true, "end"))
			})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			buf := make([]byte, 4096)
			n, err := c.Read(buf)
			if err != nil || string(buf[:n]) != "end" {
				t.Fatalf("Read = %q, %v; want end", buf[:n], err)
			}
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 16<<20 {
				t.Errorf("the flood of %d pings took %d bytes of memory", count, grown)
			}
			wg.Go(func() {
				if _, err := c.Write([]byte("message")); err != nil {
					t.Errorf("Write: %v", err)
				}
			})
			pongs := 0
			for {
				op, p := readFrame(t, peer)
				if op == opBinary {
					if p != "message" {
						t.Errorf("message = %q", p)
					}
					break
				}
				if pongs++; op != opPong || len(p) != 125 {
					t.Fatalf("frame %d is opcode %#x with %d bytes, want a pong", pongs, op, len(p))
				}
			}
			if pongs == 0 || pongs == count {
				t.Errorf("%d pongs for %d pings", pongs, count)
			}
			wg.Wait()
		})
	}
}

// Pings are answered while another goroutine writes as much as it can, never
// within a message.
func TestPongsBetweenMessages(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"tcp", "tls"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			client, server := newPair(t, way)
			ping := rawFrame(0x89, true, "are you there")
			var wg sync.WaitGroup
			wg.Go(func() { // beside the framing: the client's conn writes nothing else
				for range 200 {
					client.NetConn().Write(ping)
				}
			})
			wg.Go(func() {
				p := content(30000)
				for range 200 {
					server.Write(p)
				}
			})
			go server.Read(make([]byte, 100))
			got := make([]byte, 30000)
			want := content(30000)
			for range 200 {
				if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("message damaged (%v)", err)
				}
			}
			wg.Wait()
		})
	}
}
