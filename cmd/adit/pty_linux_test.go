package main

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// openPTY returns a terminal, and what shows on it.
func openPTY(t *testing.T) (tty *os.File, out *output) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	rc, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	rc.Control(func(fd uintptr) { // Fd would make Read uninterruptible
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	out = &output{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			out.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		tty.Close()
		master.Close()
		<-done
	})
	return tty, out
}

func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	modes, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return modes.Lflag&unix.ECHO != 0
}

// TestScreen runs an agent on a terminal.
func TestScreen(t *testing.T) {
	t.Parallel()
	_, url := startServer(t)
	c := newCommand(t, "ADIT_TOKEN="+testSecret, "TERM=xterm", "LANG=C.UTF-8", "NO_COLOR=1")
	tty, shown := openPTY(t)
	c.person, c.console, c.terminal = true, true, tty
	c.start(t, "http", site(t), "--id", "web", "--server", url)
	shown.wait(t, `\x1b\[1mconnected\x1b\[0m  ws://`)
	shown.wait(t, `round trip`)
	shown.wait(t, `answers`)
	if echoes(t, tty) {
		t.Error("the terminal echoes what is typed")
	}
	get(t, shown.wait(t, `(http://\S+/web/)`)+"some/page")
	shown.wait(t, `GET +/some/page +200 +\S+ ms +8 B`)
	shown.wait(t, `1 request, 1 connection, `)
	if code := c.stop(); code != exitDone {
		t.Errorf("exit code %d, want %d", code, exitDone)
	}
	shown.wait(t, `\x1b\[1mstopped\x1b\[0m`)
	if !echoes(t, tty) {
		t.Error("the terminal does not echo what is typed after the end")
	}
	if text := c.out.String() + c.err.String(); text != "" {
		t.Errorf("printed %q beside the screen", text)
	}
}

// TestScreenLeavesTheTerminal ends a program at once.
func TestScreenLeavesTheTerminal(t *testing.T) {
	t.Parallel()
	c := newCommand(t, "ADIT_TOKEN="+testSecret, "TERM=xterm")
	tty, shown := openPTY(t)
	c.person, c.console, c.terminal = true, true, tty
	c.start(t, "http", "3000", "--id", "web", "--server", "ws://127.0.0.1:1")
	shown.wait(t, `again in \d s`)
	c.restoreTerminal()
	if !echoes(t, tty) {
		t.Error("the terminal does not echo what is typed")
	}
}
