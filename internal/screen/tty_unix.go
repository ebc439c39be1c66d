//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package screen

import (
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// A terminal is a terminal whose echo is off, so that keys do not tear the
// block.
type terminal struct {
	fd int

	mu    sync.Mutex    // guards the fields below, and is held while modes change
	saved *unix.Termios // nil if there is nothing to restore
	over  bool          // it was given back for good
}

func openTerminal(f *os.File) (*terminal, error) {
	t := &terminal{fd: int(f.Fd())}
	_, err := unix.IoctlGetTermios(t.fd, ioctlGet)
	return t, err
}

// quiet turns the echo off. Only the program that has the terminal may do that.
func (t *terminal) quiet() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	modes, err := unix.IoctlGetTermios(t.fd, ioctlGet)
	if err != nil || modes.Lflag&unix.ECHO == 0 {
		return
	}
	if t.saved == nil {
		was := *modes
		t.saved = &was
	}
	modes.Lflag &^= unix.ECHO
	unix.IoctlSetTermios(t.fd, ioctlSet, modes)
}

// restore gives the terminal back for good as it was, without what was typed
// unseen.
func (t *terminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.saved == nil || !t.foreground() {
		return
	}
	unix.IoctlSetTermios(t.fd, ioctlSetFlush, t.saved)
	t.saved = nil
}

// foreground reports whether the terminal is ours to write to: the shell has
// it while this program is in the background.
func (t *terminal) foreground() bool {
	group, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp() // an error: it controls nobody
}

// size returns columns and rows.
func (t *terminal) size() (cols, rows int) {
	ws, err := unix.IoctlGetWinsize(t.fd, unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 || ws.Row == 0 {
		return 80, 24
	}
	return int(ws.Col), int(ws.Row)
}

// notify tells resized of new sizes, and continued of the end of a suspension.
func notify(resized, continued chan os.Signal) {
	signal.Notify(resized, unix.SIGWINCH)
	signal.Notify(continued, unix.SIGCONT)
}

// Columns returns how wide the terminal f is, and 80 if it does not say so.
func Columns(f *os.File) int {
	cols, _ := (&terminal{fd: int(f.Fd())}).size()
	return cols
}
