//go:build unix

package usersocket

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// listen makes the socket, which is nobody else's before anybody can connect to
// it: that takes a process that listens. The error wraps EADDRINUSE if there is a
// file at path.
func listen(path string) (*net.UnixListener, error) {
	syscall.ForkLock.RLock()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()       // the listener has a copy
	unix.Fchmod(fd, mode) // on Linux the file is made with this mode; others do not take it
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	ln, err := serve(f, path)
	if err != nil {
		os.Remove(path)
	}
	return ln, err
}

// serve listens on a bound socket.
func serve(f *os.File, path string) (*net.UnixListener, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm() != mode { // else there is nothing that somebody could put in its place
		if err := os.Chmod(path, mode); err != nil {
			return nil, err
		}
	}
	if err := unix.Listen(int(f.Fd()), unix.SOMAXCONN); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return ln.(*net.UnixListener), nil
}

func isRefused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }
