package session

import (
	"sync"
	"sync/atomic"
)

// headroom is what a chunk keeps free in front of its bytes for the header of
// the batch and that of the carrier's message.
const headroom = batchHeader + 20

// chunkSizes are the capacities of chunks; the largest takes a DATA frame of
// full length.
var chunkSizes = [...]int{2 << 10, 16 << 10, headroom + frameHeader + slowData, headroom + frameHeader + fastData}

const (
	midChunk  = 1
	bulkChunk = 2
	fastChunk = 3
)

// A chunk is a piece of the sequence that this side sends: filled, sent as one
// batch, and kept until it is acknowledged. Its bytes are buf[off:end].
type chunk struct {
	next *chunk // in the order of the sequence
	buf  []byte // chunkSizes[class] bytes
	off  int
	end  int
	seq  uint64 // position of buf[off], set when the chunk enters the sequence
	last int    // where the header of the last frame begins
	size uint8  // index into chunkSizes
}

var chunkPools [len(chunkSizes)]sync.Pool

func getChunk(size int) *chunk {
	c, _ := chunkPools[size].Get().(*chunk)
	if c == nil {
		c = &chunk{buf: make([]byte, chunkSizes[size]), size: uint8(size)}
	}
	c.reset()
	return c
}

func (c *chunk) reset() { c.next, c.off, c.end, c.last = nil, headroom, headroom, headroom }

func putChunk(c *chunk) { chunkPools[c.size].Put(c) }

func (c *chunk) len() int       { return c.end - c.off }
func (c *chunk) room() int      { return len(c.buf) - c.end }
func (c *chunk) seqEnd() uint64 { return c.seq + uint64(c.len()) }

// appendFrame adds a frame; the caller has made sure of the room.
func (c *chunk) appendFrame(t frameType, id uint64, payload []byte) {
	c.last = c.end
	putFrameHeader(c.buf[c.end:], t, len(payload), id)
	c.end += frameHeader
	c.end += copy(c.buf[c.end:], payload)
}

// chunkFor is the smallest class that takes n bytes of frames.
func chunkFor(n int) int {
	for i, size := range chunkSizes {
		if n+headroom <= size {
			return i
		}
	}
	return len(chunkSizes) - 1
}

// recvSizes are the capacities of receive buffers.
var recvSizes = [...]int{4 << 10, 16 << 10, 80 << 10, 272 << 10}

// A recvBuf is memory that a carrier is read into, or that small pieces are
// collected in. Streams that hold a part of it keep a reference.
type recvBuf struct {
	b    []byte
	refs atomic.Int32
	size uint8
}

var recvPools [len(recvSizes)]sync.Pool

// getRecvBuf returns a buffer with one reference.
func getRecvBuf(size int) *recvBuf {
	r, _ := recvPools[size].Get().(*recvBuf)
	if r == nil {
		r = &recvBuf{b: make([]byte, recvSizes[size]), size: uint8(size)}
	}
	r.refs.Store(1)
	return r
}

func (r *recvBuf) retain() { r.refs.Add(1) }

func (r *recvBuf) release() {
	if r.refs.Add(-1) == 0 {
		recvPools[r.size].Put(r)
	}
}
