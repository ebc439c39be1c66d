package wstunnel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// spoolMemory is how much of one body is held in memory, in bytes. What is
// beyond goes to a file, which has no name and so vanishes with the process.
const spoolMemory = 256 << 10

var errFreed = errors.New("spool: read after its end")

// Rooms bound what spools hold: bytes in all for one tunnel, and memory for all
// of a process.
type rooms struct {
	bytes  *budget
	memory *budget
}

// A spool holds one message, or the body of one. One goroutine writes it, and
// another can read what is there already. It is safe for concurrent use.
type spool struct {
	rooms rooms

	mu     sync.Mutex // guards the fields below
	more   sync.Cond  // signals each change
	mem    []byte
	inMem  int64 // reserved of rooms.memory
	file   *os.File
	size   int64 // bytes in mem and file
	done   bool
	err    error // what ended it before its time
	inRoom int64 // reserved of rooms.bytes
	users  int   // who have yet to call free
	gone   bool
}

func newSpool(r rooms) *spool {
	s := &spool{rooms: r, users: 1}
	s.more.L = &s.mu
	return s
}

// Write appends p. The error is errBudget if there is no room for it.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return 0, errFreed
	}
	n := int64(len(p))
	if !s.rooms.bytes.take(n) {
		return 0, errBudget
	}
	s.inRoom += n
	if s.file == nil && len(s.mem)+len(p) <= spoolMemory && s.rooms.memory.take(n) {
		s.inMem += n
		s.mem = append(s.mem, p...)
	} else if err := s.writeFileLocked(p); err != nil {
		return 0, err
	}
	s.size += n
	s.more.Broadcast()
	return len(p), nil
}

func (s *spool) writeFileLocked(p []byte) error {
	if s.file == nil {
		f, err := os.CreateTemp("", "adit-wstunnel-")
		if err != nil {
			return fmt.Errorf("hold a body: %w", err)
		}
		os.Remove(f.Name())
		s.file = f
	}
	if _, err := s.file.Write(p); err != nil {
		return fmt.Errorf("hold a body: %w", err)
	}
	return nil
}

// finish tells readers that nothing follows; err is nil if that was all.
func (s *spool) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return
	}
	s.done, s.err = true, err
	s.more.Broadcast()
}

// len returns how much there is.
func (s *spool) len() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

// readAt reads what there is at off, and waits for it if there is nothing yet.
func (s *spool) readAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	for off >= s.size && !s.done && !s.gone {
		s.more.Wait()
	}
	switch {
	case s.gone:
		s.mu.Unlock()
		return 0, errFreed
	case off >= s.size:
		err := s.err
		s.mu.Unlock()
		if err == nil {
			err = io.EOF
		}
		return 0, err
	case off < int64(len(s.mem)):
		n := copy(p, s.mem[off:])
		s.mu.Unlock()
		return n, nil
	}
	f, from := s.file, off-int64(len(s.mem))
	p = p[:min(int64(len(p)), s.size-off)]
	s.mu.Unlock()
	n, err := f.ReadAt(p, from)
	if n > 0 {
		err = nil
	}
	return n, err
}

// hold has free be called once more.
func (s *spool) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

// free gives back what s holds, and ends all reads, when it is called by its
// last user.
func (s *spool) free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	s.gone = true
	s.rooms.bytes.give(s.inRoom)
	s.rooms.memory.give(s.inMem)
	s.mem = nil
	if s.file != nil {
		s.file.Close()
	}
	s.more.Broadcast()
}

// A spoolReader reads a spool from its beginning.
type spoolReader struct {
	s   *spool
	off int64
}

func (r *spoolReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.s.readAt(p, r.off)
	r.off += int64(n)
	return n, err
}

// failure returns what finish was given.
func (s *spool) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
