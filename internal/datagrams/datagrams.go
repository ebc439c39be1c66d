// Package datagrams carries UDP over streams: each datagram with its length
// before it, as docs/protocol/native.md has it. Relay connects a stream to a
// connected socket; Flows are the streams of a socket that many send to.
package datagrams

import "sync"

// Sizes in bytes.
const (
	HeadLen = 2         // of the length before a datagram
	MaxLen  = 1<<16 - 1 // of a datagram
)

// buffers are for a datagram with its head. Nothing that waits holds one.
var buffers = sync.Pool{New: func() any { return new([HeadLen + MaxLen]byte) }}
