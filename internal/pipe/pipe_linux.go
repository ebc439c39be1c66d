package pipe

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
)

const (
	// least is the size of a pipe that is still worth its while. Over its
	// budget a user gets smaller ones.
	least = 64 << 10

	// pause is how long none is made after that has failed.
	pause = time.Second
)

// Works reports whether there are pipes on this system.
const Works = true

// A Pipe is empty when Get returns it. Its descriptors do not block.
type Pipe struct {
	R, W int // descriptors of its ends
	Size int // bytes that it holds, if the kernel packs them well
}

var (
	idle  = make(chan *Pipe, Kept) // those that nobody uses
	made  atomic.Int32             // all that there are
	after atomic.Int64             // when one may be made again, in Unix nanoseconds

	trial   sync.Once // of the first pipe
	carries bool      // its result
)

// Get returns an empty pipe, or nil if there is none to be had. The caller puts
// it back or closes it.
func Get() *Pipe {
	select {
	case p := <-idle:
		return p
	default:
	}
	if made.Add(1) > Max || time.Now().UnixNano() < after.Load() {
		made.Add(-1)
		return nil
	}
	p := open()
	if p == nil {
		after.Store(time.Now().Add(pause).UnixNano())
		made.Add(-1)
	}
	return p
}

func open() *Pipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	p := &Pipe{R: fds[0], W: fds[1]}
	var err error
	if p.Size, err = unix.FcntlInt(uintptr(p.W), unix.F_SETPIPE_SZ, Capacity); err != nil {
		p.Size, err = unix.FcntlInt(uintptr(p.W), unix.F_GETPIPE_SZ, 0)
	}
	if err == nil && p.Size >= least {
		trial.Do(func() { carries = p.try() })
		if carries {
			return p
		}
	}
	unix.Close(p.R)
	unix.Close(p.W)
	return nil
}

// try reports whether a byte gets from a socket to another through the pipe. In
// some sandboxes there are pipes, but no splice(2).
func (p *Pipe) try() bool {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	b := []byte{1}
	n, _ := nonblock.Write(fds[0], b)
	in, _ := nonblock.Splice(fds[1], p.W, n)
	out, _ := nonblock.Splice(p.R, fds[1], in)
	back, _ := nonblock.Read(fds[0], b)
	return back == 1 && out == 1
}

// Put gives an empty pipe back.
func (p *Pipe) Put() {
	select {
	case idle <- p:
	default:
		p.Close()
	}
}

// Close is for a pipe that something is left in, or that nobody needs.
func (p *Pipe) Close() {
	unix.Close(p.R)
	unix.Close(p.W)
	made.Add(-1)
}

// Read reads from the pipe, and does not wait.
func (p *Pipe) Read(b []byte) (int, error) { return nonblock.Read(p.R, b) }

// Made returns how many pipes there are, and how many of them nobody uses.
func Made() (all, unused int) { return int(made.Load()), len(idle) }
