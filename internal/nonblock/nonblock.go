//go:build unix

// Package nonblock has the system calls that move bytes from and to sockets and
// pipes which are set not to block. On Linux the scheduler is not told of them:
// telling it is for calls that may block, and wakes its monitor thread whenever
// the program was idle, which costs a busy relay of small messages a fifth of
// its time. Until such a call returns the goroutine cannot be preempted; none
// takes longer than the kernel needs to copy or hand over a buffer.
//
// Errors are those of package unix. A call that was interrupted is made again.
package nonblock
