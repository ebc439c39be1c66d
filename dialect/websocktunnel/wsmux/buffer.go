package wsmux

import "sync"

// A pool has buffers of several sizes, in bytes.
type pool struct {
	sizes []int
	pools []sync.Pool
}

func newPool(sizes ...int) *pool {
	return &pool{sizes, make([]sync.Pool, len(sizes))}
}

// class returns the smallest size that n bytes fit into, or else the largest.
func (p *pool) class(n int) int {
	for i, size := range p.sizes {
		if n <= size {
			return i
		}
	}
	return len(p.sizes) - 1
}

func (p *pool) get(class int) *buffer {
	if b, ok := p.pools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{mem: make([]byte, p.sizes[class]), class: class}
}

func (p *pool) put(b *buffer) {
	b.r, b.w = 0, 0
	p.pools[b.class].Put(b)
}

// A buffer holds bytes at mem[r:w].
type buffer struct {
	mem   []byte
	r, w  int
	class int
}

func (b *buffer) len() int      { return b.w - b.r }
func (b *buffer) room() int     { return len(b.mem) - b.w }
func (b *buffer) bytes() []byte { return b.mem[b.r:b.w] }

var (
	readBuffers = newPool(4<<10, 16<<10, 64<<10, 256<<10) // that the conn is read into
	held        = newPool(512, 4<<10, 16<<10, 64<<10)     // for what waits for a reader
	batches     = newPool(2<<10, 16<<10, 64<<10, batchMax)
)

// batchMax is the most that is written at once, in bytes.
const batchMax = 256 << 10
