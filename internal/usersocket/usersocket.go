// Package usersocket listens on unix sockets to which nobody but the user of
// this process can connect, from their first moment on:
//
//	ln, err := usersocket.Listen("/run/adit/admin.sock")
//
// A socket that a process has left behind is replaced, and one that somebody
// listens on never is.
package usersocket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	mode        = 0o600
	dialTimeout = time.Second
)

// Listen listens at path. The error names it, and says what is there already if
// that is the reason. The listener's Close removes the socket, unless there is
// another one at the path by then.
func Listen(path string) (net.Listener, error) {
	defer lockFolder(filepath.Dir(path))()
	ln, err := listen(path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err = removeStale(path); err == nil {
			ln, err = listen(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen unix %s: %w", path, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("listen unix %s: %w", path, err)
	}
	return &listener{UnixListener: ln, path: path, socket: info}, nil
}

// A listener removes its socket.
type listener struct {
	*net.UnixListener
	path   string
	socket fs.FileInfo
	remove sync.Once
}

// Close ends the listener, and removes its socket.
func (l *listener) Close() error {
	l.remove.Do(func() {
		if info, err := os.Lstat(l.path); err == nil && same(info, l.socket) {
			os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}

// same reports whether a and b are one file. A number may be that of another one
// soon after the first has gone.
func same(a, b fs.FileInfo) bool { return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) }

// removeStale removes a socket that nobody listens on. The error says what is at
// path if it is something else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist): // just now
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that is no socket")
	}
	c, err := net.DialTimeout("unix", path, dialTimeout)
	switch {
	case err == nil:
		c.Close()
		return errors.New("another process listens there")
	case !isRefused(err): // somebody may well listen, and be busy
		return fmt.Errorf("another process may listen there: %w", err)
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
