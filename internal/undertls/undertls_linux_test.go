package undertls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/testca"
	"adit/internal/undertls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns both ends of a TLS conn; the near one is over a Socket. chop has
// the far one send its bytes one by one.
func pair(t *testing.T, version uint16, chop bool) (near, far *tls.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	if chop {
		accepted = choppedConn{accepted}
	}
	ca := testca.New(t)
	near = tls.Client(undertls.New(dialled, nil), &tls.Config{RootCAs: ca.Pool, ServerName: "test", MaxVersion: version})
	far = tls.Server(accepted, &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server("test"))}})
	done := make(chan error, 1)
	go func() { done <- far.Handshake() }()
	if err := errors.Join(near.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return near, far
}

type choppedConn struct{ net.Conn }

func (c choppedConn) Write(p []byte) (int, error) {
	for i := range p {
		if n, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i + n, err
		}
	}
	return len(p), nil
}

// read reads from c as somebody does who parks whenever there is nothing. parked
// tells how often that was.
func read(t *testing.T, c *tls.Conn, n int) (got []byte, parked int) {
	t.Helper()
	s := undertls.Of(c)
	buf := make([]byte, 7)
	for len(got) < n {
		s.SetTry(true)
		k, err := c.Read(buf)
		s.SetTry(false)
		got = append(got, buf[:k]...)
		switch {
		case err == undertls.ErrNothing:
			parked++
			ready := make(chan struct{})
			if !s.Park(func() { close(ready) }) {
				t.Fatal("Park = false, want true")
			}
			select {
			case <-ready:
			case <-time.After(10 * time.Second):
				t.Fatal("nothing arrived")
			}
		case err != nil:
			t.Fatalf("Read after %d bytes: %v", len(got), err)
		}
	}
	return got, parked
}

func TestTry(t *testing.T) {
	t.Parallel()
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		for _, chop := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, in bytes %v", name, chop), func(t *testing.T) {
				t.Parallel()
				near, far := pair(t, version, chop)
				first, second := bytes.Repeat([]byte("hello"), 100), bytes.Repeat([]byte("again"), 100)
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					far.Write(first)
					far.Write(second)
				}()
				got, _ := read(t, near, len(first)+len(second))
				if want := string(first) + string(second); string(got) != want {
					t.Errorf("read %q, want %q", got, want)
				}
				<-sent

				// What TLS holds must not count as nothing.
				go far.Write([]byte("0123456789"))
				if _, err := io.ReadFull(near, make([]byte, 5)); err != nil {
					t.Fatal(err)
				}
				got, parked := read(t, near, 5)
				if string(got) != "56789" || parked > 0 {
					t.Errorf("read %q and parked %d times, want 56789 at once", got, parked)
				}

				s := undertls.Of(near)
				s.SetTry(true)
				for range 3 {
					if n, err := near.Read(make([]byte, 1)); n != 0 || err != undertls.ErrNothing {
						t.Errorf("Read of nothing = %d, %v, want ErrNothing", n, err)
					}
				}
				far.Close()
				s.SetTry(false)
				if _, err := near.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("Read at the end: got %v, want EOF", err)
				}
			})
		}
	}
}

// The first bytes were read before, and are not in the socket.
func TestHead(t *testing.T) {
	t.Parallel()
	near, _ := pair(t, tls.VersionTLS13, false)
	s := undertls.New(near.NetConn().(*undertls.Socket).NetConn(), []byte("head"))
	s.SetTry(true)
	got := make([]byte, 3)
	for _, want := range []string{"hea", "d"} {
		if n, err := s.Read(got); string(got[:n]) != want || err != nil {
			t.Errorf("Read = %q, %v, want %q", got[:n], err, want)
		}
	}
}

func TestOf(t *testing.T) {
	t.Parallel()
	near, far := pair(t, tls.VersionTLS13, false)
	p, q := net.Pipe()
	defer p.Close()
	defer q.Close()
	for name, tt := range map[string]struct {
		conn net.Conn
		want bool
	}{
		"TLS over a Socket":       {near, true},
		"TLS without":             {far, false},
		"a Socket alone":          {near.NetConn(), false},
		"TLS over a pipe":         {tls.Client(p, &tls.Config{ServerName: "x"}), false},
		"a Socket that is a pipe": {tls.Client(undertls.New(p, nil), &tls.Config{ServerName: "x"}), false},
	} {
		if got := undertls.Of(tt.conn) != nil; got != tt.want {
			t.Errorf("Of %s found one: %v, want %v", name, got, tt.want)
		}
	}
}
