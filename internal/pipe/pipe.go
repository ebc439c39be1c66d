// Package pipe lends kernel pipes, through which bytes move from socket to
// socket without being copied (splice(2)), within what a user may have of them.
//
//	p := pipe.Get()
//	if p == nil {
//		// copy
//	}
//	n, err := nonblock.Splice(from, p.W, p.Size)
//	...
//	p.Put() // once it is empty again
//
// On systems other than Linux there are none to be had.
package pipe

const (
	// Capacity is what a pipe is to hold, in bytes. The kernel lets one
	// unprivileged user have 64 MiB in pipes (/proc/sys/fs/pipe-user-pages-soft),
	// of which two programs on one machine leave something to others.
	Capacity = 1 << 20

	// Max is how many there are at once in this process.
	Max = 24

	// Kept is how many of them are kept for the next use.
	Kept = 8
)
