package datagrams

import (
	"encoding/binary"
	"io"
	"sync"
)

// maxGathered is how many datagrams are handed on at a time.
const maxGathered = 64

// A splitter takes the bytes of a stream, as they come, and hands on the
// datagrams in them, as many at a time as there are. It holds memory only within
// a datagram. It is not safe for concurrent use.
type splitter struct {
	// emit takes datagrams, which are good until it returns, and returns how
	// many it has dealt with. That is all of them, unless it must not wait or
	// there is an error, which is final.
	emit func(datagrams [][]byte, wait bool) (done int, err error)

	// canTry says that emit has a way not to wait.
	canTry bool

	head [HeadLen]byte
	got  int                     // bytes of the datagram that has begun, its head among them
	buf  *[HeadLen + MaxLen]byte // of its payload, or nil
}

var gathers = sync.Pool{New: func() any { return new([maxGathered][]byte) }}

// whole reports whether no datagram has begun that is not complete.
func (s *splitter) whole() bool { return s.got == 0 }

// release gives back the memory of what has begun.
func (s *splitter) release() {
	if s.buf != nil {
		buffers.Put(s.buf)
		s.buf = nil
	}
}

// Write hands on what is complete with p, and keeps the rest.
func (s *splitter) Write(p []byte) (int, error) { return s.take(p, true) }

// TryWrite is Write that does not wait. Of what it reports as not written, no
// byte was taken.
func (s *splitter) TryWrite(p []byte) (int, error) {
	if !s.canTry {
		return 0, nil
	}
	return s.take(p, false)
}

func (s *splitter) take(p []byte, wait bool) (n int, err error) {
	list := gathers.Get().(*[maxGathered][]byte)
	most := 1 // that were in it
	defer func() {
		clear(list[:most])
		gathers.Put(list)
	}()
	if s.got > 0 {
		n, err = s.finish(p, list, wait)
		if err != nil || !s.whole() {
			return n, err
		}
	}
	for {
		count, end := 0, n
		for count < maxGathered && len(p)-end >= HeadLen {
			next := end + HeadLen + int(binary.BigEndian.Uint16(p[end:]))
			if next > len(p) {
				break
			}
			list[count] = p[end+HeadLen : next : next]
			end = next
			count++
		}
		if count == 0 {
			return n + s.begin(p[n:]), nil
		}
		most = max(most, count)
		done, err := s.emit(list[:count], wait)
		if done < count || err != nil {
			for _, b := range list[:done] {
				n += HeadLen + len(b)
			}
			return n, err
		}
		n = end
	}
}

// begin keeps the beginning of a datagram.
func (s *splitter) begin(p []byte) int {
	n := copy(s.head[:], p)
	s.got = len(p)
	if rest := p[n:]; len(rest) > 0 {
		s.buf = buffers.Get().(*[HeadLen + MaxLen]byte)
		copy(s.buf[:], rest)
	}
	return len(p)
}

// finish adds to the datagram that has begun, and hands it on when it is
// complete. If that cannot be yet, the bytes that would complete it are not
// taken.
func (s *splitter) finish(p []byte, list *[maxGathered][]byte, wait bool) (n int, err error) {
	if s.got < HeadLen {
		n = copy(s.head[s.got:], p)
		if s.got+n < HeadLen {
			s.got += n
			return n, nil
		}
	}
	have := max(s.got-HeadLen, 0)
	size := int(binary.BigEndian.Uint16(s.head[:]))
	if s.buf == nil {
		s.buf = buffers.Get().(*[HeadLen + MaxLen]byte)
	}
	part := copy(s.buf[have:size], p[n:])
	n += part
	if have+part < size {
		s.got = HeadLen + have + part
		return n, nil
	}
	list[0] = s.buf[:size]
	done, err := s.emit(list[:1], wait)
	if done == 0 {
		return 0, err // s.got is as before
	}
	s.got = 0
	s.release()
	return n, err
}

// drain hands on what r has until it ends. Nothing that waits for a datagram
// holds memory. The error is io.EOF, io.ErrUnexpectedEOF within a datagram, or
// that of r or of emit.
func (s *splitter) drain(r io.Reader) error {
	defer s.release()
	err := s.pull(r)
	if err == nil || err == io.EOF {
		err = io.EOF
		if !s.whole() {
			err = io.ErrUnexpectedEOF
		}
	}
	return err
}

func (s *splitter) pull(r io.Reader) error {
	if w, ok := r.(io.WriterTo); ok {
		_, err := w.WriteTo(s)
		return err
	}
	for {
		var head [HeadLen]byte
		n, err := io.ReadFull(r, head[:])
		if err == io.ErrUnexpectedEOF {
			s.got = n
		}
		if err != nil {
			return err
		}
		if _, err := s.Write(head[:]); err != nil {
			return err
		}
		for !s.whole() {
			if err := s.pullOnce(r); err != nil {
				return err
			}
		}
	}
}

func (s *splitter) pullOnce(r io.Reader) error {
	buf := buffers.Get().(*[HeadLen + MaxLen]byte)
	defer buffers.Put(buf)
	n, err := r.Read(buf[:])
	if _, werr := s.Write(buf[:n]); werr != nil {
		return werr
	}
	return err
}
