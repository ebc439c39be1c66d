package wsconn

import (
	"io"
	"testing"
	"time"
)

func TestPark(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		act  func(from, to *Conn)
		read string
		err  error // of Read, if not io.ErrClosedPipe for any
	}{
		{"bytes", func(from, _ *Conn) { from.Write([]byte("hello")) }, "hello", nil},
		{"the other end closes", func(from, _ *Conn) { from.Close() }, "", io.EOF},
		{"this end closes", func(_, to *Conn) { to.Close() }, "", io.ErrClosedPipe},
	} {
		for _, way := range parkable {
			t.Run(way+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				from, to := newPair(t, way)
				called := make(chan struct{})
				if !to.Park(func() { close(called) }) {
					t.Fatal("Park = false, want true")
				}
				tt.act(from, to)
				select {
				case <-called:
				case <-time.After(10 * time.Second):
					t.Fatal("Park's function was not called")
				}
				buf := make([]byte, 16)
				n, err := to.Read(buf)
				if got := string(buf[:n]); got != tt.read || err != tt.err && (tt.err != io.ErrClosedPipe || err == nil) {
					t.Errorf("Read = %q, %v; want %q, %v", got, err, tt.read, tt.err)
				}
			})
		}
	}
}

func TestParkRefuses(t *testing.T) {
	t.Parallel()
	for _, way := range parkable {
		from, to := newPair(t, way)
		if _, err := from.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 60) // less than there is: a part stays behind
		if _, err := to.Read(buf); err != nil {
			t.Fatal(err)
		}
		called := make(chan struct{})
		if to.Park(func() { close(called) }) {
			<-called // bytes are in the socket, if nowhere else
		}
		if _, err := io.ReadFull(to, buf[:40]); err != nil {
			t.Fatal(err)
		}
		to.Close()
		if to.Park(func() { t.Error("Park's function was called, want Park to refuse") }) {
			t.Errorf("%s: Park of a closed Conn = true, want false", way)
		}
	}
	a, _ := newPair(t, "pipe")
	if a.Park(func() { t.Error("Park's function was called, want Park to refuse") }) {
		t.Error("Park of a pipe = true, want false")
	}
}

// parkable are the ways to connect that need no goroutine to wait.
var parkable = []string{"tcp", "unix", "undertls"}
