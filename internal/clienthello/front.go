package clienthello

import (
	"io"
	"net"
	"time"

	"adit/internal/readable"
)

const (
	usualBuffer = 2 << 10     // bytes; what most first messages take
	maxLong     = 2048        // messages at a time that do not fit in that
	linger      = time.Second // for the client to see why it is refused
	maxDiscard  = 64 << 10    // bytes that it may still send until then
)

// A Front reads the first messages of those who connect to the ports of one
// server, and bounds the memory that they take together. Its methods are safe
// for concurrent use.
type Front struct {
	long chan struct{} // has an element for each message of maxLong
}

// NewFront returns a Front that nobody has come to.
func NewFront() *Front { return &Front{make(chan struct{}, maxLong)} }

// Read reads the first message from conn, within conn's deadline. It returns all
// that it has read, whatever it is. The error is an *Error, or conn's; a conn
// that ended in the middle gives io.ErrUnexpectedEOF.
func (f *Front) Read(conn net.Conn) (hello Hello, raw []byte, err error) {
	if rc, ok := readable.Of(conn); ok { // nothing is held for who only connects
		if err := readable.Wait(rc); err != nil {
			return hello, nil, err
		}
	}
	var s Scanner
	buf, n, long := make([]byte, usualBuffer), 0, false
	defer func() {
		if long {
			<-f.long
		}
	}()
	for {
		m, err := conn.Read(buf[n:])
		n += m
		if m == 0 {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return hello, buf[:n], err
		}
		done, err := s.Scan(buf[:n])
		switch {
		case err != nil:
			return hello, buf[:n], err
		case done:
			hello, err = s.Hello()
			return hello, buf[:n], err
		case n < len(buf):
			continue
		case n == MaxBytes:
			return hello, buf[:n], ErrTooLarge
		}
		select {
		case f.long <- struct{}{}:
			long = true
		default:
			return hello, buf[:n], ErrBusy
		}
		buf = append(make([]byte, 0, MaxBytes), buf...)[:MaxBytes]
	}
}

// SendAlert tells whoever connected why it is refused, and closes conn.
func SendAlert(conn net.Conn, alert byte) { LastWords(conn, AppendAlert(nil, alert)) }

// LastWords sends b and closes conn, after a moment in which the far side may
// still be sending: a close with bytes unread would be a reset, which overtakes
// b. It sets conn's deadline.
func LastWords(conn net.Conn, b []byte) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(linger))
	if _, err := conn.Write(b); err != nil {
		return
	}
	hc, ok := conn.(interface{ CloseWrite() error })
	if !ok || hc.CloseWrite() != nil {
		return
	}
	var buf [512]byte
	for left := maxDiscard; left > 0; {
		n, err := conn.Read(buf[:])
		if err != nil {
			return
		}
		left -= n
	}
}
