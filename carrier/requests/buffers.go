package requests

import (
	"slices"
	"sync"
)

// A buffer is memory from a pool.
type buffer struct {
	b    []byte
	size int // index of bufferSizes, or len of it for one that is of no pool
}

// bufferSizes are for what people type, for a frame, and for what an agent
// sends at once.
var bufferSizes = [...]int{4 << 10, frameData + 1<<10, 1 << 20}

var buffers [len(bufferSizes)]sync.Pool

// getBuffer returns a buffer of n bytes.
func getBuffer(n int) *buffer {
	for i, size := range bufferSizes {
		if n > size {
			continue
		}
		if b, ok := buffers[i].Get().(*buffer); ok {
			b.b = b.b[:n]
			return b
		}
		return &buffer{b: make([]byte, n, size), size: i}
	}
	return &buffer{b: make([]byte, n), size: len(bufferSizes)}
}

func (b *buffer) release() {
	if b != nil && b.size < len(bufferSizes) {
		buffers[b.size].Put(b)
	}
}

// An outbox is what one side sends and has to keep: the bytes from base to end.
type outbox struct {
	blocks    []block
	base, end uint64
	held      int // bytes of memory
}

type block struct {
	buf *buffer // filled from its start
	pos uint64  // of the first byte
}

// append adds p, which is copied.
func (o *outbox) append(p []byte) {
	for len(p) > 0 {
		last := len(o.blocks) - 1
		if last < 0 || len(o.blocks[last].buf.b) == cap(o.blocks[last].buf.b) || len(o.blocks[last].buf.b) >= frameData {
			b := getBuffer(min(len(p), frameData))
			b.b = b.b[:0]
			o.held += cap(b.b)
			o.blocks = append(o.blocks, block{b, o.end})
			last++
		}
		buf := o.blocks[last].buf
		n := min(len(p), min(cap(buf.b), frameData)-len(buf.b))
		buf.b = append(buf.b, p[:n]...)
		p = p[n:]
		o.end += uint64(n)
	}
}

// piece returns bytes from position pos on, at most n and none at end. They
// are valid until the next call of a method.
func (o *outbox) piece(pos uint64, n int) []byte {
	i, _ := slices.BinarySearchFunc(o.blocks, pos, func(b block, pos uint64) int {
		if b.pos+uint64(len(b.buf.b)) <= pos {
			return -1
		}
		return 1
	})
	if i == len(o.blocks) || pos < o.blocks[i].pos {
		return nil
	}
	b := o.blocks[i].buf.b[pos-o.blocks[i].pos:]
	return b[:min(n, len(b))]
}

// trim forgets what is before pos.
func (o *outbox) trim(pos uint64) {
	if pos <= o.base {
		return
	}
	o.base = pos
	n := 0
	for n < len(o.blocks) && o.blocks[n].pos+uint64(len(o.blocks[n].buf.b)) <= pos {
		o.held -= cap(o.blocks[n].buf.b)
		o.blocks[n].buf.release()
		n++
	}
	o.blocks = slices.Delete(o.blocks, 0, n)
}

// An inbox puts what arrives in its order.
type inbox struct {
	next  uint64 // position behind what is in ready
	ready []piece
	early []piece // in the order of their positions
	held  int     // bytes in early
	waits int     // bytes in ready
}

// A piece is bytes that have arrived, and the buffer that they are in.
type piece struct {
	pos uint64
	b   []byte
	buf *buffer
}

// add takes in a piece, of which any part may have come before. It owns the
// buffer. It reports false if there is no room for it.
func (in *inbox) add(p piece) bool {
	if p.pos > in.next {
		if in.held+len(p.b) > maxEarly {
			p.buf.release()
			return false
		}
		i, _ := slices.BinarySearchFunc(in.early, p.pos, func(e piece, pos uint64) int {
			if e.pos < pos {
				return -1
			}
			return 1
		})
		if i < len(in.early) && in.early[i].pos == p.pos && len(in.early[i].b) >= len(p.b) {
			p.buf.release()
			return true
		}
		in.early = slices.Insert(in.early, i, p)
		in.held += len(p.b)
		return true
	}
	in.take(p)
	for len(in.early) > 0 && in.early[0].pos <= in.next {
		p := in.early[0]
		in.early = slices.Delete(in.early, 0, 1)
		in.held -= len(p.b)
		in.take(p)
	}
	return true
}

// take appends what is new in p, which begins at next or before.
func (in *inbox) take(p piece) {
	skip := in.next - p.pos
	if skip >= uint64(len(p.b)) {
		p.buf.release()
		return
	}
	p.b = p.b[skip:]
	p.pos = in.next
	in.next += uint64(len(p.b))
	in.waits += len(p.b)
	in.ready = append(in.ready, p)
}

// read moves bytes to b.
func (in *inbox) read(b []byte) (n int) {
	for n < len(b) && len(in.ready) > 0 {
		p := &in.ready[0]
		m := copy(b[n:], p.b)
		n += m
		if p.b = p.b[m:]; len(p.b) == 0 {
			p.buf.release()
			*p = piece{}
			in.ready = in.ready[1:]
		}
	}
	if len(in.ready) == 0 {
		in.ready = nil
	}
	in.waits -= n
	return n
}

// drop forgets everything.
func (in *inbox) drop() {
	for _, p := range slices.Concat(in.ready, in.early) {
		p.buf.release()
	}
	in.ready, in.early, in.held, in.waits = nil, nil, 0, 0
}
