//go:build unix

package nonblock_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
)

func TestReadAndWrite(t *testing.T) {
	t.Parallel()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := fds[0], fds[1]
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
	}
	defer unix.Close(a)
	buf := make([]byte, 64)
	if _, err := nonblock.Read(a, buf); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("Read of nothing: got %v, want EAGAIN", err)
	}
	if nonblock.Readable(a) {
		t.Error("Readable of nothing: got true, want false")
	}
	if n, err := nonblock.Write(b, []byte("hello")); n != 5 || err != nil {
		t.Errorf("Write: got %d, %v, want 5", n, err)
	}
	if !nonblock.Readable(a) {
		t.Error("Readable of bytes: got false, want true")
	}
	if n, err := nonblock.Read(a, buf); string(buf[:n]) != "hello" || err != nil {
		t.Errorf("Read: got %q, %v, want hello", buf[:n], err)
	}
	full := make([]byte, 1<<20)
	for {
		if _, err = nonblock.Write(b, full); err != nil {
			break
		}
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("Write to a full socket: got %v, want EAGAIN", err)
	}
	unix.Close(b)
	for err = nil; err == nil; {
		var n int
		if n, err = nonblock.Read(a, full); n == 0 {
			break
		}
	}
	if err != nil {
		t.Errorf("Read at the end: got %v, want 0 bytes", err)
	}
	if _, err := nonblock.Write(a, []byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("Write to nobody: got %v, want EPIPE", err)
	}
}
