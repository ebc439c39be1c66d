package tcpws

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"adit/internal/wsframe"
)

// out moves what comes from tcp to ws.
func (l *link) out() {
	err := l.copyOut()
	if errors.Is(err, io.EOF) {
		if err = l.resetBefore(); err == nil {
			err = l.endOut()
		}
	}
	switch {
	case err == nil, l.failed():
	case errors.Is(err, errShut):
		io.Copy(io.Discard, l.tcp.Conn) // until its end or the deadline of peerShut
	case errors.Is(err, os.ErrDeadlineExceeded): // of peerShut
	case isRead(err):
		if l.features.ends {
			l.writeText(textReset)
		} else {
			l.close(nil)
		}
		l.lose(err)
		abort(l.tcp.Conn)
	default:
		// The WebSocket takes no more, but what came before that is there.
		l.lose(err)
		l.tcp.SetReadDeadline(time.Now().Add(graceTime))
		io.Copy(io.Discard, l.tcp.Conn) // lest it does not read what it gets
	}
}

// A readError is an error of reading tcp.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

func (e *readError) Unwrap() error { return e.err }

func isRead(err error) bool {
	var re *readError
	return errors.As(err, &re)
}

// bulkFrom is how much has to be there at a time, in bytes, for a transfer to
// count as bulk.
const bulkFrom = 15 << 10

// An outState is where the way from tcp to ws stands.
type outState struct {
	size  int     // class of buf
	buf   *[]byte // nil while nothing is there
	moved int     // bytes in one go
	fills fill
}

func (s *outState) lend() []byte {
	s.buf = getBuffer(s.size)
	return (*s.buf)[wsframe.MaxHeader:]
}

func (s *outState) giveBack() {
	putBuffer(s.size, s.buf)
	s.buf = nil
}

// copyOut returns io.EOF when tcp ended, a *readError if it failed, and an error
// of ws otherwise.
func (l *link) copyOut() error {
	var s outState
	for {
		if s.moved >= spliceFrom && l.canSpliceOut() {
			n, ok, err := l.spliceOut(&s.fills)
			if err != nil {
				return err
			}
			if ok {
				if n < bulkFrom {
					s.moved = 0
				}
				continue
			}
		}
		if err := l.copyOutOnce(&s); err != nil {
			return err
		}
	}
}

// copyOutOnce reads once and sends what came as one message.
func (l *link) copyOutOnce(s *outState) error {
	n, err := l.tcp.read(s)
	if err == io.EOF {
		return err
	} else if err != nil {
		return &readError{err}
	}
	err = l.writeData(*s.buf, n)
	s.giveBack()
	switch room := bufferSizes[s.size] - wsframe.MaxHeader; {
	case n == room:
		s.size = min(s.size+1, len(bufferSizes)-1)
	case n < room/4:
		s.size = max(s.size-1, 0)
	}
	if s.moved += n; n < bulkFrom {
		s.moved = 0
	}
	return err
}

// writeData sends n bytes behind the room for a header as one message, and
// changes them.
func (l *link) writeData(b []byte, n int) error {
	key := l.key()
	payload := b[wsframe.MaxHeader : wsframe.MaxHeader+n]
	if key != 0 {
		wsframe.Mask(payload, payload, key)
	}
	l.wmu.Lock()
	if l.shut {
		l.wmu.Unlock()
		return errShut
	}
	head := wsframe.Append(l.head[:0], wsframe.Binary, n, l.client, key)
	at := wsframe.MaxHeader - len(head)
	copy(b[at:], head)
	l.stir()
	_, err := l.ws.Write(b[at : wsframe.MaxHeader+n])
	l.sent.Add(int64(n))
	if perr := l.unlockWrite(); err == nil {
		err = perr
	}
	return err
}

// Buffers of these sizes are borrowed while bytes move, header included.
var bufferSizes = [...]int{16 << 10, 256<<10 + wsframe.MaxHeader}

var buffers = [len(bufferSizes)]sync.Pool{
	{New: func() any { b := make([]byte, bufferSizes[0]); return &b }},
	{New: func() any { b := make([]byte, bufferSizes[1]); return &b }},
}

func getBuffer(size int) *[]byte    { return buffers[size].Get().(*[]byte) }
func putBuffer(size int, b *[]byte) { buffers[size].Put(b) }
