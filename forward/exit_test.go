package forward_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"adit/auth"
	"adit/forward"
	"adit/internal/testtcp"
	"adit/tunnel"
)

var quiet = slog.New(slog.DiscardHandler)

// echoServer sends back all that it gets, once it has seen its end.
func echoServer(t testing.TB) *net.TCPAddr {
	t.Helper()
	at := netip.MustParseAddrPort(testtcp.ServeInTurn(t, func(c net.Conn) {
		b, _ := io.ReadAll(c)
		c.Write(b)
	}))
	return net.TCPAddrFromAddrPort(at)
}

// closedPort is one that nobody listens at.
func closedPort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

func newExit(t testing.TB, rules ...string) *forward.Exit {
	t.Helper()
	var list []auth.ForwardRule
	for _, s := range rules {
		r, err := forward.ParseExitRule(s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return forward.NewExit(list)
}

type served struct {
	received, sent int64
	err            error
}

// visit connects somebody to an exit, and returns what Serve has.
func visit(t *testing.T, e *forward.Exit) (visitor *net.TCPConn, ended <-chan served) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	visitor = dial(t, ln.Addr()).(*net.TCPConn)
	stream, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan served, 1)
	go func() {
		var s served
		s.received, s.sent, s.err = e.Serve(context.Background(), stream, quiet)
		result <- s
	}()
	return visitor, result
}

// What is sent before the reply is not lost, and the end of one direction
// leaves the other open.
func TestExit(t *testing.T) {
	t.Parallel()
	at := echoServer(t)
	e := newExit(t, fmt.Sprintf("127.0.0.1:%d", at.Port), fmt.Sprintf("localhost:%d", at.Port))
	port := fmt.Sprintf("%04x", at.Port)
	for _, tt := range []struct{ name, in, want string }{
		{"SOCKS5 address", string(fromHex(t, "050100 05010001 7f000001"+port)), string(fromHex(t, "0500 05000001000000000000"))},
		{"SOCKS5 name", string(fromHex(t, "050100 05010003 09 6c6f63616c686f7374"+port)), string(fromHex(t, "0500 05000001000000000000"))},
		{"CONNECT", fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", at.Port), "HTTP/1.1 200 Connection established\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, ended := visit(t, e)
			io.WriteString(c, tt.in+"hello")
			c.CloseWrite()
			got, err := io.ReadAll(c)
			if want := tt.want + "hello"; err != nil || string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
			if s := <-ended; s != (served{received: 5, sent: 5}) {
				t.Errorf("Serve returned %+v, want 5 bytes both ways", s)
			}
		})
	}
}

func TestExitRefuses(t *testing.T) {
	t.Parallel()
	at, closed := echoServer(t), closedPort(t)
	port := fmt.Sprintf("%04x", at.Port)
	everywhere, here := newExit(t), newExit(t, "127.0.0.1:*", "localhost:*")
	for _, tt := range []struct {
		name     string
		exit     *forward.Exit
		in, want string
		code     tunnel.RefuseCode // 0 for none
	}{
		{"loopback without a rule", everywhere, "050100 05010001 7f000001" + port, "0500 05020001000000000000", tunnel.RefuseForbidden},
		{"localhost without a rule", everywhere, "050100 05010003 09 6c6f63616c686f7374" + port, "0500 05020001000000000000", tunnel.RefuseForbidden},
		{"mapped loopback without a rule", everywhere, "050100 05010004 00000000000000000000ffff7f000001" + port, "0500 05020001000000000000", tunnel.RefuseForbidden},
		{"metadata", everywhere, "050100 05010001 a9fea9fe 0050", "0500 05020001000000000000", tunnel.RefuseForbidden},
		{"not what the rule says", here, "050100 05010001 7f000002" + port, "0500 05020001000000000000", tunnel.RefuseForbidden},
		{"nobody there", here, "050100 05010001 7f000001" + fmt.Sprintf("%04x", closed), "0500 05050001000000000000", tunnel.RefuseUpstreamRefused},
		{"UDP ASSOCIATE", here, "050100 05030001 00000000 0000", "0500 05070001000000000000", 0},
		{"BIND", here, "050100 05020001 7f000001" + port, "0500 05070001000000000000", 0},
		{"password", here, "050102", "05ff", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, ended := visit(t, tt.exit)
			c.Write(fromHex(t, tt.in))
			got, err := io.ReadAll(c)
			if want := fromHex(t, tt.want); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %x, %v, want %x", got, err, want)
			}
			s := <-ended
			re, ok := errors.AsType[*tunnel.RefusedError](s.err)
			if ok != (tt.code != 0) || ok && re.Code != tt.code || s.received != 0 || s.sent != 0 {
				t.Errorf("Serve returned %+v, want code %v and no bytes", s, tt.code)
			}
		})
	}
	t.Run("CONNECT", func(t *testing.T) {
		t.Parallel()
		c, ended := visit(t, everywhere)
		fmt.Fprintf(c, "CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", at.Port)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusForbidden {
			t.Errorf("got %v, %v, want 403", resp, err)
		}
		<-ended
	})
}

func TestExitHasARoomForSoMany(t *testing.T) {
	t.Parallel()
	e := newExit(t)
	n := 0
	for ; e.Enter(); n++ {
	}
	if n != 8192 {
		t.Errorf("%d streams entered, want 8192", n)
	}
	e.Leave()
	if !e.Enter() {
		t.Error("nobody may enter after one has left")
	}
}

func TestParseExitRule(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"*:*", "10.0.0.0/8:*", "localhost:22"} {
		if _, err := forward.ParseExitRule(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"@office/ssh", "unix:/run/x.sock", "db", ""} {
		if _, err := forward.ParseExitRule(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

// Whatever a visitor says, the exit answers or hangs up, and goes nowhere that
// its rules do not have.
func FuzzExit(f *testing.F) {
	for _, s := range []string{
		"\x05\x01\x00\x05\x01\x00\x03\x09localhost\x00\x16early", "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", "\x05\x00",
		"\x05\x01\x00\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x00\x50",
		"CONNECT [::ffff:169.254.169.254]:80 HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	e := newExit(f, "[2001:db8::1]:1") // which is nowhere
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Contains(b, []byte("2001")) || bytes.Contains(b, []byte{0x20, 0x01}) {
			t.Skip("it may be where the rule goes")
		}
		visitor, stream := net.Pipe()
		go func() {
			visitor.Write(b)
			visitor.SetDeadline(time.Now()) // for what is not read
			visitor.Close()
		}()
		received, sent, _ := e.Serve(t.Context(), stream, quiet)
		if received != 0 || sent != 0 {
			t.Errorf("%q moved %d and %d bytes", b, received, sent)
		}
	})
}
