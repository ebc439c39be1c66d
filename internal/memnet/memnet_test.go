package memnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := Pipe()
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

func TestHalfClose(t *testing.T) {
	t.Parallel()
	a, b := Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := a.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if !a.Quiet() || b.Quiet() {
		t.Errorf("Quiet with a byte under way to b: a %v, b %v; want true, false", a.Quiet(), b.Quiet())
	}
	a.CloseWrite()
	if got, err := io.ReadAll(b); string(got) != "ping" || err != nil {
		t.Fatalf("ReadAll after CloseWrite = %q, %v; want ping", got, err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after CloseWrite: %v, want net.ErrClosed", err)
	}
	if _, err := b.Write([]byte("pong")); err != nil {
		t.Fatalf("Write against a half-closed end: %v", err)
	}
	b.Close()
	if got, err := io.ReadAll(a); string(got) != "pong" || err != nil {
		t.Errorf("ReadAll = %q, %v; want pong", got, err)
	}
}

func TestAbort(t *testing.T) {
	t.Parallel()
	want := errors.New("gone")
	a, b := Pipe()
	a.Write([]byte("lost"))
	a.Abort(want)
	if n, err := b.Read(make([]byte, 8)); err != want {
		t.Errorf("Read after the far end aborted = %d, %v; want %v", n, err, want)
	}
	if _, err := b.Write([]byte("x")); err != want {
		t.Errorf("Write after the far end aborted: %v, want %v", err, want)
	}
	if b.Quiet() {
		t.Error("an aborted conn is Quiet")
	}
	if _, err := a.Read(make([]byte, 8)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read of the end that aborted: %v, want net.ErrClosed", err)
	}
}

func TestWriteBlocksWhenFull(t *testing.T) {
	t.Parallel()
	a, b := Pipe()
	defer b.Close()
	data := bytes.Repeat([]byte("0123456789"), BufferSize/5)
	done := make(chan error, 1)
	go func() {
		_, err := a.Write(data)
		a.Close()
		done <- err
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v; want the %d written", len(got), err, len(data))
	}
	if err := <-done; err != nil {
		t.Errorf("Write: %v", err)
	}
}

func TestListener(t *testing.T) {
	t.Parallel()
	l := Listen("here")
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
	c, err := l.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
		t.Errorf("ReadAll = %q, %v; want hello", got, err)
	}
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v, want net.ErrClosed", err)
	}
	if _, err := l.Dial(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial after Close: %v, want net.ErrClosed", err)
	}
}
