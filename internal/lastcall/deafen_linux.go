package lastcall

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// deafen has the system ignore what begins a connection: segments of TCP with
// SYN (RFC 9293, section 3.1). Those that end a handshake pass, and whatever
// comes on a connection. If it cannot be done nothing happens.
func deafen(l net.Listener) {
	if l.Addr().Network() != "tcp" {
		return
	}
	sc, ok := l.(syscall.Conn)
	if !ok {
		return
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return
	}
	const flags, syn = 13, 0x02 // in the TCP header, where a filter's packet begins
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
	rc.Control(func(fd uintptr) {
		unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
			Len: uint16(len(filter)), Filter: &filter[0],
		})
	})
}
