package tcpws

import (
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the target has got rid of before it closes with much unread comes to the
// caller, although that takes its time to read.
func TestSlowReaderOfAnEarlyAnswer(t *testing.T) {
	t.Parallel()
	for name, original := range map[string]bool{"our own": false, "originals": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPath(t, original)
			a, b := p.open(t)
			go a.Write(make([]byte, 8<<20))
			b.Read(make([]byte, 1)) // and leaves the rest
			b.SetWriteDeadline(time.Now().Add(time.Second / 2))
			sent, _ := b.Write(make([]byte, 64<<20))
			raw, err := b.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(func(fd uintptr) {
				if n, err := unix.IoctlGetInt(int(fd), unix.TIOCOUTQ); err == nil {
					sent -= n
				}
			})
			b.Close()
			time.Sleep(drainTime + drainTime/2) // the caller takes its time
			if n, err := io.Copy(io.Discard, a); n < int64(sent) {
				t.Errorf("got %d bytes of the answer, %v, want %d", n, err, sent)
			}
		})
	}
}
