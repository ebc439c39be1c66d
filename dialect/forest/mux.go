package forest

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"log"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// Numbers of yamux, version 0.
const (
	headerSize = 12

	typeData   = 0
	typeWindow = 1
	flagRST    = 8

	maxRecord = 16 << 10 // bytes of a record of TLS

	windowOurs = 1 << 20 // bytes that a peer of this package may send ahead on a stream
)

// Sizes of data frames to a peer of this package, in bytes. The connection takes
// one of quickFrame at 50 MB/s or more, and of slowFrame at 3 to 12.
const (
	minFrame   = 64 << 10
	maxFrame   = 256 << 10
	quickFrame = 5 * time.Millisecond
	slowFrame  = 20 * time.Millisecond
)

// Signs of life. Any byte is one: what answers a ping waits behind data.
const (
	pingAfter    = 2 * time.Second  // of silence
	suspectAfter = 4 * time.Second  // of silence, with a ping on its way: visitors go elsewhere if they can
	deadAfter    = 40 * time.Second // the original takes 30 to 40 s
)

// A muxConn is the connection below a multiplexer. It takes note of signs of
// life, and hands a frame's header and body to the connection at once, which
// the library writes one after the other: that is one TLS record less for each.
type muxConn struct {
	net.Conn
	early io.Reader // comes before what is read from Conn; may be nil
	sock  *socket   // below the TLS of Conn; nil without TLS

	lastRead atomic.Int64 // UnixNano
	frame    atomic.Int64 // bytes of a data frame to a peer of this package at most

	mu      sync.Mutex // held while a frame is written
	pending []byte     // header of a data frame whose body is next, or empty
	body    int        // its length
	buf     []byte
}

func newMuxConn(c net.Conn, early io.Reader) *muxConn {
	m := &muxConn{Conn: c, early: early}
	if tc, ok := c.(*tls.Conn); ok {
		if m.sock, ok = tc.NetConn().(*socket); ok {
			m.sock.bulk()
		}
	}
	m.lastRead.Store(time.Now().UnixNano())
	m.frame.Store(minFrame)
	return m
}

func (m *muxConn) Read(p []byte) (int, error) {
	if m.early != nil {
		if n, err := m.early.Read(p); n > 0 || err != io.EOF {
			return n, err
		}
		m.early = nil
	}
	n, err := m.Conn.Read(p)
	if n > 0 {
		m.lastRead.Store(time.Now().UnixNano())
	}
	return n, err
}

// Write takes what the library writes: a header, or the body of the header
// before.
func (m *muxConn) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pending) == 0 && len(p) == headerSize && p[1] == typeData {
		if n := int(binary.BigEndian.Uint32(p[8:])); n > 0 {
			m.pending, m.body = append(m.pending, p...), n
			return len(p), nil
		}
	}
	if len(m.pending) == 0 {
		return m.Conn.Write(p)
	}
	begin := time.Now()
	// The header goes into the first record, the rest of the body as it is.
	first := min(len(p), maxRecord-headerSize)
	m.buf = append(append(m.buf[:0], m.pending...), p[:first]...)
	m.pending = m.pending[:0]
	if m.sock != nil {
		m.sock.cork()
	}
	n, err := m.Conn.Write(m.buf)
	n = max(0, n-headerSize)
	if err == nil && first < len(p) {
		var rest int
		rest, err = m.Conn.Write(p[first:])
		n += rest
	}
	if m.sock != nil {
		if e := m.sock.uncork(); err == nil {
			err = e
		}
	}
	if int64(n) >= m.frame.Load() {
		m.adapt(time.Since(begin))
	}
	return n, err
}

// adapt sets the size of frames by how long the connection took a whole one
// for. Each costs two switches between goroutines, but what waits behind it
// should not wait long.
func (m *muxConn) adapt(took time.Duration) {
	switch {
	case took > slowFrame:
		m.frame.Store(minFrame)
	case took < quickFrame:
		m.frame.Store(min(2*m.frame.Load(), maxFrame))
	}
}

// reset tells the far side that a stream ended with an error, which the library
// has no way to do. It waits for the body that belongs to a header, if one is
// pending, by sending the two in one go as Write does.
func (m *muxConn) reset(stream uint32) {
	var h [headerSize]byte
	h[1] = typeWindow
	binary.BigEndian.PutUint16(h[2:], flagRST)
	binary.BigEndian.PutUint32(h[4:], stream)
	m.mu.Lock()
	defer m.mu.Unlock()
	// A pending header has not been written, so this is between two frames.
	m.Conn.Write(h[:]) // an error shows on the next frame
}

func (m *muxConn) silence() time.Duration {
	return time.Since(time.Unix(0, m.lastRead.Load()))
}

// muxConfig returns the settings that suit a peer. The library's own pings are
// off: they end a session whose answers wait behind data.
func muxConfig(f features) *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = deadAfter
	c.StreamOpenTimeout = deadAfter
	c.StreamCloseTimeout = time.Minute
	c.LogOutput, c.Logger = nil, log.New(io.Discard, "", 0)
	if f.halfClose {
		c.MaxStreamWindowSize = windowOurs
		c.StreamCloseTimeout = 0 // the other direction may take as long as it likes
	}
	return c
}

// watch pings a silent peer until ctx ends, tells suspect when it begins and
// ends to be in doubt, and returns when the peer is dead. mux.Ping is waited
// for.
func watch(ctx context.Context, mux *yamux.Session, conn *muxConn, suspect func(bool)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(pingAfter / 4)
	defer tick.Stop()
	doubt := false
	var pinging atomic.Bool
	for {
		select {
		case <-ctx.Done():
			return
		case <-mux.CloseChan():
			return
		case <-tick.C:
		}
		silence := conn.silence()
		if silence >= pingAfter && pinging.CompareAndSwap(false, true) {
			wg.Go(func() {
				mux.Ping() // an answer is seen on the connection
				pinging.Store(false)
			})
		}
		if now := silence >= suspectAfter; now != doubt {
			doubt = now
			suspect(doubt)
		}
		if silence >= deadAfter {
			mux.Close()
			return
		}
	}
}
