//go:build !unix

package usersocket

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// wsaeconnrefused is what a socket of Windows says that nobody listens on.
const wsaeconnrefused = syscall.Errno(10061)

// listen makes the socket. Who may connect to it is a matter of its folder here.
func listen(path string) (*net.UnixListener, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, syscall.EADDRINUSE
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	return ln, nil
}

func isRefused(err error) bool {
	return errors.Is(err, wsaeconnrefused) || errors.Is(err, syscall.ECONNREFUSED)
}
