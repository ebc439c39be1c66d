//go:build unix

package trywrite_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"adit/internal/testtcp"
	"adit/internal/trywrite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pair(t *testing.T) (a, b *net.TCPConn) { return testtcp.Pair(t) }

func TestWriteTakesWhatTheSocketTakes(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	var w trywrite.Writer
	if !w.Init(a) {
		t.Fatal("Init of a TCP conn = false, want true")
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	sent := 0
	for {
		n, err := w.Write(data[sent:])
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		sent += n
	}
	if sent == len(data) {
		t.Fatalf("%d bytes fit into the socket, want it full before", sent)
	}
	got := make([]byte, sent)
	if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, data[:sent]) {
		t.Fatalf("read %d bytes: %v; they differ from what was written, or are not all", sent, err)
	}
}

func TestWriteReportsTheSocketsError(t *testing.T) {
	t.Parallel()
	a, _ := pair(t)
	var w trywrite.Writer
	w.Init(a)
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write after CloseWrite = %v, want EPIPE", err)
	}
	a.Close()
	if _, err := w.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close = %v, want net.ErrClosed", err)
	}
}

func TestInitRefusesOtherConns(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	var w trywrite.Writer
	if w.Init(a) {
		t.Error("Init of a pipe = true, want false")
	}
}

func TestWriteAllWaits(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	var w trywrite.Writer
	if !w.Init(a) {
		t.Fatal("Init of a TCP conn = false, want true")
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	got := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(b)
		got <- all
	}()
	if n, err := w.WriteAll(data); n != len(data) || err != nil {
		t.Errorf("WriteAll = %d, %v, want %d", n, err, len(data))
	}
	a.Close()
	if all := <-got; !bytes.Equal(all, data) {
		t.Errorf("got %d bytes, want the %d that were written", len(all), len(data))
	}
	if _, err := w.WriteAll(data); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteAll to a closed conn: got %v, want net.ErrClosed", err)
	}
}
