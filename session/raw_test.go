package session_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/memnet"
	"adit/session"
)

// The numbers of docs/protocol/native.md, written down a second time.
const (
	recHello   = 0x01
	recWelcome = 0x02
	recReject  = 0x03
	recBatch   = 0x10
	recAck     = 0x11
	recPing    = 0x12
	recPong    = 0x13
	recClose   = 0x14

	frOpen   = 0x01
	frAccept = 0x02
	frRefuse = 0x03
	frData   = 0x04
	frEnd    = 0x05
	frCredit = 0x06
	frReset  = 0x07
	frStop   = 0x08
	frDrain  = 0x09
	frCall   = 0x0a
	frResult = 0x0b

	tagSession      = 1
	tagSecret       = 2
	tagAttempt      = 3
	tagReceived     = 4
	tagProof        = 5
	tagWindow       = 6
	tagStreams      = 7
	tagResumeWindow = 8
	tagReason       = 10
	tagRetryAfter   = 11
	tagVersions     = 12
)

// patience is how long a test waits for the other side.
const patience = 20 * time.Second

func u16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func join(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// record is a record with its header.
func record(kind byte, body ...[]byte) []byte {
	b := join(body...)
	h := u32(uint32(len(b)))
	h[0] = kind
	return append(h, b...)
}

// frame is a frame with its header.
func frame(typ byte, id uint64, payload ...[]byte) []byte {
	b := join(payload...)
	h := u32(uint32(len(b)))
	h[0] = typ
	return join(h, u64(id), b)
}

// hello is a HELLO with a version window.
func hello(low, high byte, fields ...[]byte) []byte {
	return record(recHello, []byte("adit"), []byte{low, high}, join(fields...))
}

func field(tag uint64, value []byte) []byte { return session.AppendField(nil, tag, value) }
func uintField(tag, value uint64) []byte    { return session.AppendUintField(nil, tag, value) }

// fields returns the fields of b by tag.
func fields(t testing.TB, b []byte) map[uint64][]byte {
	t.Helper()
	m := map[uint64][]byte{}
	if err := session.ParseFields(b, func(tag uint64, v []byte) error { m[tag] = v; return nil }); err != nil {
		t.Fatalf("fields %x: %v", b, err)
	}
	return m
}

// proofOf is the proof of one side, "dialler" or "listener".
func proofOf(secret []byte, side string, id []byte, attempt, received uint64) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write(join([]byte("adit resume "+side), id, u64(attempt), u64(received)))
	return m.Sum(nil)
}

// A rawPeer speaks the protocol by hand over one carrier.
type rawPeer struct {
	t    testing.TB
	conn net.Conn

	id, secret []byte        // of the session
	seq        uint64        // position of what it sends next
	taken      atomic.Uint64 // bytes taken in of the other side's sequence
	sequence   []byte        // of these, not yet returned by next
	closed     *session.ClosedError
	pings      int
	noPong     bool
}

func newRawPeer(t testing.TB, conn net.Conn) *rawPeer {
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return &rawPeer{t: t, conn: conn}
}

// generous are the fields of a HELLO or WELCOME that allow the other side much.
func generous() []byte {
	return join(uintField(tagWindow, 1<<20), uintField(tagStreams, 1<<20), uintField(tagResumeWindow, 60000))
}

// acceptRaw starts a session of a whose other side, the dialler, is by hand.
func acceptRaw(t testing.TB, a *session.Acceptor) (*rawPeer, *session.Session) {
	t.Helper()
	p, s, err := tryRaw(t, a, hello(1, 1, generous()))
	if err != nil {
		t.Fatal(err)
	}
	return p, s
}

// tryRaw hands a carrier to a on which greeting is sent, and takes in the
// answer if there is a session.
func tryRaw(t testing.TB, a *session.Acceptor, greeting []byte) (*rawPeer, *session.Session, error) {
	t.Helper()
	near, far := memnet.Pipe()
	p := newRawPeer(t, near)
	p.write(greeting)
	s, resumed, err := a.Accept(t.Context(), far, nil, nil)
	if err != nil {
		return p, nil, err
	}
	if !resumed {
		t.Cleanup(func() { near.Close(); s.Close() })
	}
	kind, body := p.read()
	if kind != recWelcome {
		t.Fatalf("answer to HELLO has kind %#x, want WELCOME", kind)
	}
	f := fields(t, body[1:])
	p.id, p.secret = f[tagSession], f[tagSecret]
	return p, s, nil
}

// dialRaw starts a session whose other side, the listener, is by hand.
func dialRaw(t testing.TB, opts *session.Options) (*rawPeer, *session.Session) {
	t.Helper()
	near, far := memnet.Pipe()
	p := newRawPeer(t, near)
	p.id, p.secret = bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 32)
	p.write(record(recWelcome, []byte{1}, field(tagSession, p.id), field(tagSecret, p.secret), generous()))
	s, err := session.Dial(t.Context(), far, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); s.Close() })
	if kind, _ := p.read(); kind != recHello {
		t.Fatalf("first record has kind %#x, want HELLO", kind)
	}
	return p, s
}

// resumeHello is a HELLO that resumes the session of p.
func (p *rawPeer) resumeHello(attempt, received uint64) []byte {
	return hello(1, 1, generous(), field(tagSession, p.id), uintField(tagAttempt, attempt),
		uintField(tagReceived, received), field(tagProof, proofOf(p.secret, "dialler", p.id, attempt, received)))
}

// write sends bytes as they are. That the other side has gone is for read.
func (p *rawPeer) write(b []byte) {
	p.conn.Write(b)
}

// send sends frames as one batch.
func (p *rawPeer) send(frames ...[]byte) {
	b := join(frames...)
	p.write(record(recBatch, u64(p.taken.Load()), u64(p.seq), b))
	p.seq += uint64(len(b))
}

var errNoRecord = errors.New("the carrier ended")

// tryRead returns the next record.
func (p *rawPeer) tryRead() (kind byte, body []byte, err error) {
	var h [4]byte
	if _, err := io.ReadFull(p.conn, h[:]); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errNoRecord, err)
	}
	body = make([]byte, binary.BigEndian.Uint32(h[:])&0xffffff)
	if _, err := io.ReadFull(p.conn, body); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errNoRecord, err)
	}
	return h[0], body, nil
}

func (p *rawPeer) read() (kind byte, body []byte) {
	p.t.Helper()
	kind, body, err := p.tryRead()
	if err != nil {
		p.t.Fatalf("read record: %v", err)
	}
	return kind, body
}

// take reads a record and takes note of what is in it; false if the carrier or
// the session has ended.
func (p *rawPeer) take() bool {
	p.t.Helper()
	kind, body, err := p.tryRead()
	if err != nil {
		return false
	}
	switch kind {
	case recBatch:
		if at := binary.BigEndian.Uint64(body[8:]); at != p.taken.Load() {
			p.t.Fatalf("BATCH begins at position %d, want %d", at, p.taken.Load())
		}
		p.sequence = append(p.sequence, body[16:]...)
		p.taken.Add(uint64(len(body) - 16))
	case recPing:
		p.pings++
		if !p.noPong {
			p.write(record(recPong, u64(p.taken.Load()), body[8:]))
		}
	case recAck, recPong:
	case recClose:
		p.closed = &session.ClosedError{Code: binary.BigEndian.Uint16(body[8:]), Reason: string(body[10:]), Remote: true}
		return false
	default:
		p.t.Fatalf("record of kind %#x after the handshake", kind)
	}
	return true
}

// A rawFrame is a frame as it came.
type rawFrame struct {
	typ     byte
	id      uint64
	payload []byte
}

// code is the code that the payload begins with.
func (f rawFrame) code() uint16 { return binary.BigEndian.Uint16(f.payload) }

// next returns the next frame; false if the carrier or the session has ended.
func (p *rawPeer) next() (rawFrame, bool) {
	p.t.Helper()
	for {
		if b := p.sequence; len(b) >= 12 {
			n := 12 + int(binary.BigEndian.Uint32(b)&0xffffff)
			if len(b) >= n {
				p.sequence = b[n:]
				return rawFrame{b[0], binary.BigEndian.Uint64(b[4:]), b[12:n:n]}, true
			}
		}
		if !p.take() {
			return rawFrame{}, false
		}
	}
}

// want returns the next frame, which must have this type and id.
func (p *rawPeer) want(typ byte, id uint64) rawFrame {
	p.t.Helper()
	f, ok := p.next()
	if !ok {
		p.t.Fatalf("session ended (%v), want a frame of type %#x for %d", p.closed, typ, id)
	}
	if f.typ != typ || f.id != id {
		p.t.Fatalf("frame of type %#x for %d with payload %.40q, want type %#x for %d", f.typ, f.id, f.payload, typ, id)
	}
	return f
}

// wantClose reads until CLOSE, which must have this code.
func (p *rawPeer) wantClose(code uint16) *session.ClosedError {
	p.t.Helper()
	for p.take() {
	}
	if p.closed == nil {
		p.t.Fatalf("carrier ended without CLOSE, want CLOSE %d", code)
	}
	if p.closed.Code != code {
		p.t.Fatalf("CLOSE %d (%s), want CLOSE %d", p.closed.Code, p.closed.Reason, code)
	}
	return p.closed
}

// wantAlive checks that the session answers a call by hand.
func (p *rawPeer) wantAlive(call uint64) {
	p.t.Helper()
	p.send(frame(frCall, call, u16(999)))
	if f := p.want(frResult, call); f.code() != 2 {
		p.t.Fatalf("call has status %d, want 2 (unknown method)", f.code())
	}
}

// ended waits for the end of s and returns why.
func ended(t testing.TB, s *session.Session) error {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("session lives on, want it to end")
	}
	return s.Err()
}

// accept returns the next stream of s.
func accept(t testing.TB, s *session.Session) *session.Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	st, err := s.Accept(ctx)
	if err != nil {
		t.Fatalf("accept stream: %v", err)
	}
	return st
}
