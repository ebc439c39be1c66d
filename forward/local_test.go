package forward_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"adit/forward"
	"adit/internal/testtcp"
	"adit/tunnel"
)

const patience = 20 * time.Second

// fakeServer opens targets: port 7 echoes, also datagrams, and other ports are
// refused with the code of that number less 1000.
func fakeServer(_ context.Context, target tunnel.Target) (net.Conn, error) {
	if target.Port > 1000 {
		return nil, &tunnel.RefusedError{Code: tunnel.RefuseCode(target.Port - 1000), Reason: "so it is"}
	}
	if target.Port != 7 {
		return nil, errors.New("no server")
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		io.Copy(far, far)
	}()
	return near, nil
}

// serve runs a forward, and returns where it listens.
func serve(t *testing.T, text string, open forward.OpenFunc) net.Addr {
	t.Helper()
	spec, err := forward.ParseSpec(text)
	if err != nil {
		t.Fatal(err)
	}
	if spec.Network != "unix" {
		spec.Local = "127.0.0.1:0"
	}
	l, err := forward.Listen(spec, forward.Options{Open: open})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		l.Close()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return l.Addr()
}

func dial(t *testing.T, a net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// echoes checks that c is connected to an echo.
func echoes(t *testing.T, c io.ReadWriter) {
	t.Helper()
	io.WriteString(c, "hello")
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v, want hello", got, err)
	}
}

func TestDirect(t *testing.T) {
	t.Parallel()
	t.Run("tcp", func(t *testing.T) {
		t.Parallel()
		echoes(t, dial(t, serve(t, "1:host:7", fakeServer)))
	})
	t.Run("unix", func(t *testing.T) {
		t.Parallel()
		path := t.TempDir() + "/s"
		a := serve(t, "unix:"+path+":host:7", fakeServer)
		echoes(t, dial(t, a))
		spec, _ := forward.ParseSpec("unix:" + path + ":host:7")
		if l, err := forward.Listen(spec, forward.Options{Open: fakeServer}); err == nil {
			l.Close()
			t.Error("a socket that is served was taken over")
		}
	})
	t.Run("udp", func(t *testing.T) {
		t.Parallel()
		c := dial(t, serve(t, "1:host:7/udp", fakeServer))
		for _, want := range []string{"a", strings.Repeat("b", 9000), ""} {
			io.WriteString(c, want)
			got := make([]byte, 1<<16)
			n, err := c.Read(got)
			if err != nil || string(got[:n]) != want {
				t.Errorf("got %d bytes, %v, want %d", n, err, len(want))
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		c, err := net.Dial("tcp", serve(t, "1:host:1005", fakeServer).String())
		if err == nil {
			c.SetDeadline(time.Now().Add(patience))
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want a reset", err)
		}
	})
}

func TestSocks(t *testing.T) {
	t.Parallel()
	at := serve(t, "socks", fakeServer)
	for _, tt := range []struct {
		name, in, want string // of bytes in hex
		echo           bool
	}{
		{"name", "050100 05010003 04686f7374 0007", "0500 05000001000000000000", true},
		{"IPv4", "050100 05010001 0a000001 0007", "0500 05000001000000000000", true},
		{"IPv6", "05020200 05010004 20010db8000000000000000000000001 0007", "0500 05000001000000000000", true},
		{"forbidden", "050100 05010003 04686f7374 03ed", "0500 05020001000000000000", false},
		{"refused", "050100 05010003 04686f7374 03eb", "0500 05050001000000000000", false},
		{"timeout", "050100 05010003 04686f7374 03ec", "0500 05060001000000000000", false},
		{"unknown host", "050100 05010003 04686f7374 03f0", "0500 05040001000000000000", false},
		{"no server", "050100 05010003 04686f7374 0008", "0500 05030001000000000000", false},
		{"password alone", "050102", "05ff", false},
		{"bind", "050100 05020003 04686f7374 0007", "0500 05070001000000000000", false},
		{"kind of address", "050100 05010002", "0500 05080001000000000000", false},
		{"port 0", "050100 05010003 04686f7374 0000", "0500 05080001000000000000", false},
		{"empty name", "050100 05010003 00 0007", "0500 05080001000000000000", false},
		{"NUL", "050100 05010003 0261 00 0007", "0500 05080001000000000000", false},
		{"another version", "050100 04010001 0a000001 0007", "0500 05010001000000000000", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, at)
			c.Write(fromHex(t, tt.in))
			want := fromHex(t, tt.want)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %x, %v, want %x", got, err, want)
			}
			if tt.echo {
				echoes(t, c)
				return
			}
			if n, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("got %d bytes more, want the end", n)
			}
		})
	}
}

func fromHex(t *testing.T, s string) (b []byte) {
	t.Helper()
	if _, err := fmt.Sscanf(strings.ReplaceAll(s, " ", ""), "%x", &b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSocksUDP(t *testing.T) {
	t.Parallel()
	c := dial(t, serve(t, "socks", fakeServer))
	c.Write(fromHex(t, "050100 05030001 00000000 0000"))
	reply := make([]byte, 12)
	if _, err := io.ReadFull(c, reply); err != nil || reply[3] != 0 {
		t.Fatalf("got %x, %v, want a success", reply, err)
	}
	at := &net.UDPAddr{IP: net.IP(reply[6:10]), Port: int(reply[10])<<8 | int(reply[11])}
	u, err := net.DialUDP("udp", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	u.SetDeadline(time.Now().Add(patience))
	for _, head := range []string{"000000 01 0a000001 0007", "000000 03 04686f7374 0007"} {
		want := append(fromHex(t, head), "hello"...)
		u.Write(fromHex(t, "000001 01 0a000001 0007 61")) // a fragment, which is dropped
		u.Write(want)
		got := make([]byte, 1000)
		n, err := u.Read(got)
		if err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("got %x, %v, want %x", got[:n], err, want)
		}
	}
	c.Close() // ends the association
}

func TestConnect(t *testing.T) {
	t.Parallel()
	at := serve(t, "socks", fakeServer)
	for _, tt := range []struct {
		name, in string
		want     int
	}{
		{"name", "CONNECT host:7 HTTP/1.1\r\nHost: host:7\r\n\r\n", 200},
		{"IPv6", "CONNECT [2001:db8::1]:7 HTTP/1.0\r\n\r\n", 200},
		{"forbidden", "CONNECT host:1005 HTTP/1.1\r\n\r\n", 403},
		{"refused", "CONNECT host:1003 HTTP/1.1\r\n\r\n", 502},
		{"timeout", "CONNECT host:1004 HTTP/1.1\r\n\r\n", 504},
		{"no server", "CONNECT host:8 HTTP/1.1\r\n\r\n", 503},
		{"GET", "GET http://host:7/ HTTP/1.1\r\n\r\n", 405},
		{"no port", "CONNECT host HTTP/1.1\r\n\r\n", 400},
		{"port 0", "CONNECT host:0 HTTP/1.1\r\n\r\n", 400},
		{"NUL", "CONNECT ho\x00st:7 HTTP/1.1\r\n\r\n", 400},
		{"no HTTP", "hello\r\n\r\n", 400},
		{"long head", "CONNECT host:7 HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", 4000), 431},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, at)
			go io.WriteString(c, tt.in)
			br := bufio.NewReader(c)
			resp, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"})
			if err != nil || resp.StatusCode != tt.want {
				t.Fatalf("got %v, %v, want status %d", resp, err, tt.want)
			}
			if tt.want == 200 {
				echoes(t, struct {
					io.Reader
					io.Writer
				}{br, c})
			}
		})
	}
}

// Who speaks something else hears so at once.
func TestSocksOfAnotherKind(t *testing.T) {
	t.Parallel()
	at := serve(t, "socks", fakeServer)
	for _, tt := range []struct{ name, in, want string }{
		{"SOCKS4", "0401 0007 0a000001 00", "005b 0000 00000000"},
		{"TLS", "160301", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, at)
			begin := time.Now()
			c.Write(fromHex(t, tt.in))
			want := []byte{}
			if tt.want != "" {
				want = fromHex(t, tt.want)
			}
			if got, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) || !bytes.Equal(got, want) {
				t.Errorf("got %x, %v, want %x", got, err, want)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// Who leaves before the target is connected keeps nothing busy. What comes early
// is no sign of that, and is not lost.
func TestSocksCallerLeaves(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, ask string }{
		{"SOCKS5", "\x05\x01\x00\x05\x01\x00\x03\x04host\x00\x07"},
		{"CONNECT", "CONNECT host:7 HTTP/1.1\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			opening, proceed := make(chan context.Context), make(chan struct{})
			at := serve(t, "socks", func(ctx context.Context, target tunnel.Target) (net.Conn, error) {
				opening <- ctx
				select {
				case <-proceed:
					return fakeServer(ctx, target)
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			})
			c := dial(t, at)
			io.WriteString(c, tt.ask)
			ctx := <-opening
			c.Close()
			select {
			case <-ctx.Done():
			case <-time.After(patience):
				t.Error("the target is still being connected")
			}

			c = dial(t, at)
			io.WriteString(c, tt.ask)
			<-opening
			io.WriteString(c, "early")
			close(proceed)
			want := "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00early"
			if tt.name == "CONNECT" {
				want = "HTTP/1.1 200 Connection established\r\n\r\nearly"
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
			echoes(t, c)
		})
	}
}

// Who has left a port before its target is connected keeps nothing busy. An end of
// what it says is not that: the answer may be waited for, and what was said before
// is to arrive.
func TestDirectCallerLeaves(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		leave func(*net.TCPConn)
		left  bool
	}{
		{"reset", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, true},
		{"speaks and resets", func(c *net.TCPConn) { io.WriteString(c, "hello"); c.SetLinger(0); c.Close() }, true},
		{"closed", func(c *net.TCPConn) { c.Close() }, true},
		{"half closed", func(c *net.TCPConn) { io.WriteString(c, "hello"); c.CloseWrite() }, false},
		{"half closed at once", func(c *net.TCPConn) { c.CloseWrite() }, false},
		{"speaks and is closed", func(c *net.TCPConn) { io.WriteString(c, "hello"); c.Close() }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.name == "closed" && runtime.GOOS != "linux" {
				t.Skip("it cannot be known here")
			}
			opening, proceed := make(chan context.Context, 1), make(chan struct{})
			near, far := testtcp.Pair(t)
			at := serve(t, "1:host:7", func(ctx context.Context, _ tunnel.Target) (net.Conn, error) {
				opening <- ctx
				select {
				case <-proceed:
					return near, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			})
			c := dial(t, at)
			ctx := <-opening
			tt.leave(c.(*net.TCPConn))
			if tt.left {
				select {
				case <-ctx.Done():
				case <-time.After(patience):
					t.Error("the target is still being connected")
				}
				return
			}
			select {
			case <-ctx.Done():
				t.Fatal("the target is not connected any more")
			case <-time.After(600 * time.Millisecond): // it has been looked at by then
			}
			close(proceed)
			if tt.name != "half closed at once" {
				got := make([]byte, 5)
				far.SetDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(far, got); err != nil || string(got) != "hello" {
					t.Errorf("the target got %q, %v, want hello", got, err)
				}
			}
			if strings.HasPrefix(tt.name, "half") {
				go io.WriteString(far, "world")
				got := make([]byte, 5)
				if _, err := io.ReadFull(c, got); err != nil || string(got) != "world" {
					t.Errorf("got %q, %v, want world", got, err)
				}
			}
		})
	}
}

// One that resets is noticed also behind what it has said early.
func TestSocksCallerResets(t *testing.T) {
	t.Parallel()
	opening := make(chan context.Context, 1)
	at := serve(t, "socks", func(ctx context.Context, _ tunnel.Target) (net.Conn, error) {
		opening <- ctx
		<-ctx.Done()
		return nil, ctx.Err()
	})
	for _, early := range []bool{true, false} { // with the question, or after it
		c := dial(t, at)
		ask := "\x05\x01\x00\x05\x01\x00\x03\x04host\x00\x07"
		if early {
			ask += "early"
		}
		io.WriteString(c, ask)
		ctx := <-opening
		if !early {
			io.WriteString(c, "late")
		}
		io.ReadFull(c, make([]byte, 2)) // so that nothing unread makes it a reset
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
		select {
		case <-ctx.Done():
		case <-time.After(patience):
			t.Error("the target is still being connected")
		}
	}
}

func TestStdio(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	target := tunnel.Target{Network: tunnel.TCP, Host: "host", Port: 1005}
	err := forward.RelayStdio(t.Context(), fakeServer, target, strings.NewReader(""), &out)
	if re, ok := errors.AsType[*tunnel.RefusedError](err); !ok || re.Code != tunnel.RefuseForbidden {
		t.Errorf("got %v, want it forbidden", err)
	}
	near, far := net.Pipe()
	go func() {
		io.CopyN(io.Discard, far, 5)
		io.WriteString(far, "world")
		far.Close()
	}()
	open := func(context.Context, tunnel.Target) (net.Conn, error) { return near, nil }
	in, end := io.Pipe()
	defer end.Close()
	go io.WriteString(end, "hello")
	if err := forward.RelayStdio(t.Context(), open, target, in, &out); err != nil || out.String() != "world" {
		t.Errorf("got %q, %v, want world", out.String(), err)
	}
}
