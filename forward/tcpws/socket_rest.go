//go:build !linux

package tcpws

// isClosed and flush are for Linux.

func (s *socket) isClosed() bool { return false }
func (s *socket) flush()         {}
