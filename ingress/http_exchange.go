package ingress

import (
	"net"
	"sync"
	"time"

	"adit/internal/http1"
	"adit/policy"
	"adit/tunnel"
)

// Sizes of the buffers, in bytes.
const (
	headBuffer  = 8 << 10   // for what a visitor sends; grows up to the limit of a head
	outBuffer   = 16 << 10  // for a head with the first part of a body
	smallBuffer = 32 << 10  // for bodies
	bulkBuffer  = 256 << 10 // for bodies that have proved to be long
	keptBuffer  = 64 << 10  // larger ones are not pooled with an exchange
	bulkAfter   = 1 << 20
)

// A bufferPool holds buffers of one size.
type bufferPool struct {
	pool sync.Pool
	size int
}

var (
	outBuffers   = &bufferPool{size: outBuffer}
	smallBuffers = &bufferPool{size: smallBuffer}
	bulkBuffers  = &bufferPool{size: bulkBuffer}
)

func (p *bufferPool) get() *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, p.size)
	return &b
}

func (p *bufferPool) put(b *[]byte) { p.pool.Put(b) }

// An exchange is the memory of one request with its response. A visitor has
// one only from the first byte of a request to the end of the response.
type exchange struct {
	in   []byte // in[r:w] is what the visitor sent and was not used yet
	r, w int
	used int // bytes after r that belong to the present request

	out []byte // what is written next: a head, and body behind it
	rin []byte // what the upstream sent

	req    http1.Request
	resp   http1.Response
	chunks http1.ChunkReader // of the request's body
	rchunk http1.ChunkReader // of the response's body
	fields []http1.Field     // of trailers

	start    time.Duration // in h.now's time
	key      string        // that was routed
	target   []byte        // for the upstream
	prefix   string        // path mode's "/<id>", or ""
	tunnel   tunnel.Tunnel
	tried    []tunnel.Tunnel // that would fail again
	service  string
	id       tunnel.ID
	passed   *policy.Guard // that has let the request in last, but for h.guard
	general  policy.Pass   // of h.guard
	pass     policy.Pass   // of both
	head     int           // length of the head in out
	bodyLeft int64         // bytes of the request's body that are not in out; -1 if chunked and not complete
	body     body          // of the response
	upload   *upload
	span     Span          // nil if the request is not followed
	waited   time.Duration // for an agent, if somebody wants to know
	tries    int           // deliveries that were begun
	replied  bool          // something of a response came
	started  bool          // the head of the response was sent, or a part of it
	received int64
	sent     int64
	status   int
	code     string

	pathHeader string // in which the upstream is told the path that the visitor asked for, or ""
}

func newExchange() *exchange {
	return &exchange{
		in:  make([]byte, headBuffer),
		out: make([]byte, 0, outBuffer),
		rin: make([]byte, outBuffer),
		req: http1.Request{Fields: make([]http1.Field, 0, 24)},
		resp: http1.Response{
			Fields: make([]http1.Field, 0, 24),
		},
	}
}

// reset makes ex ready for the pool: it refers to nothing and is of usual size.
func (ex *exchange) reset() {
	ex.clear()
	ex.r, ex.w, ex.used = 0, 0, 0
	if len(ex.in) > keptBuffer {
		ex.in = make([]byte, headBuffer)
	}
	if cap(ex.out) > keptBuffer {
		ex.out = make([]byte, 0, outBuffer)
	}
	if len(ex.rin) > keptBuffer {
		ex.rin = make([]byte, outBuffer)
	}
}

// clear forgets the request.
func (ex *exchange) clear() {
	ex.tunnel, ex.upload = nil, nil
	clear(ex.tried)
	ex.tried = ex.tried[:0]
	ex.passed, ex.general, ex.pass = nil, policy.Pass{}, policy.Pass{}
	ex.body = body{}
	ex.key, ex.prefix, ex.service, ex.id, ex.code, ex.pathHeader = "", "", "", "", "", ""
	ex.target = nil
	ex.bodyLeft, ex.received, ex.sent, ex.status = 0, 0, 0, 0
	ex.replied, ex.started = false, false
	ex.span, ex.waited, ex.tries = nil, 0, 0
	ex.chunks.Reset()
}

// unread returns what the visitor sent and no request has used.
func (ex *exchange) unread() []byte { return ex.in[ex.r+ex.used : ex.w] }

// consume ends the present request: what it used can be overwritten.
func (ex *exchange) consume() {
	n := copy(ex.in, ex.unread())
	ex.r, ex.w, ex.used = 0, n, 0
	ex.clear()
}

// skipEmptyLine drops an empty line before a request line (RFC 9112, section
// 2.2).
func (ex *exchange) skipEmptyLine() {
	if b := ex.unread(); ex.used == 0 && ex.r == 0 && len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
		ex.r = 2
	}
}

// fill reads more of what the visitor sends. It is for heads: the slices of a
// parsed request stay good, for they refer to the old buffer if it grows.
func (ex *exchange) fill(conn net.Conn) error {
	ex.room()
	n, err := conn.Read(ex.in[ex.w:])
	ex.w += n
	if n > 0 {
		return nil
	}
	return err
}

// append adds to what the visitor sent.
func (ex *exchange) append(b []byte) {
	for len(b) > 0 {
		ex.room()
		n := copy(ex.in[ex.w:], b)
		ex.w += n
		b = b[n:]
	}
}

func (ex *exchange) room() {
	if ex.w == len(ex.in) {
		in := make([]byte, 2*len(ex.in))
		copy(in, ex.in[:ex.w])
		ex.in = in
	}
}

// readByte waits for the first byte of a request with memory for no more.
func readByte(conn net.Conn, one *[1]byte, h *HTTP) (*exchange, error) {
	n, err := conn.Read(one[:])
	if n == 0 {
		return nil, err
	}
	ex := h.requests.Get().(*exchange)
	ex.in[0] = one[0]
	ex.w = 1
	return ex, nil
}
