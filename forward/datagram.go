package forward

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"adit/tunnel"
)

// A stream of datagrams has each with its length, a u16, before it; see
// docs/protocol/native.md.
const (
	lengthLen   = 2
	maxDatagram = 1<<16 - 1
)

// IdleUDP is for how long a stream of datagrams may carry none.
const IdleUDP = 2 * time.Minute

// writeDatagram writes b[lengthLen:] as a datagram; the first bytes of b are for
// the length.
func writeDatagram(w io.Writer, b []byte) error {
	binary.BigEndian.PutUint16(b, uint16(len(b)-lengthLen))
	_, err := w.Write(b)
	return err
}

// readDatagram reads a datagram into buf, which has room for the longest.
func readDatagram(r io.Reader, buf []byte) ([]byte, error) {
	if _, err := io.ReadFull(r, buf[:lengthLen]); err != nil {
		return nil, err
	}
	b := buf[:binary.BigEndian.Uint16(buf)]
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return b, nil
}

// RelayDatagrams carries datagrams between a stream and a connected UDP socket
// until the stream ends or idle has passed without one. It closes both, and
// returns the bytes of the datagrams that it took from either.
func RelayDatagrams(stream, socket net.Conn, idle time.Duration) (fromStream, fromSocket int64, err error) {
	var wg sync.WaitGroup
	timer := time.AfterFunc(idle, func() {
		tunnel.Abort(stream, tunnel.ResetTimeout, "no datagram for too long")
		socket.Close()
	})
	wg.Go(func() {
		defer stream.Close()
		buf := make([]byte, lengthLen+maxDatagram)
		for {
			n, rerr := socket.Read(buf[lengthLen:])
			switch {
			case errors.Is(rerr, syscall.ECONNREFUSED):
				continue // of the one before: nobody is there yet, or any more
			case rerr != nil:
				return
			}
			timer.Reset(idle)
			fromSocket += int64(n)
			if writeDatagram(stream, buf[:lengthLen+n]) != nil {
				return
			}
		}
	})
	buf := make([]byte, maxDatagram)
	for {
		var b []byte
		if b, err = readDatagram(stream, buf); err != nil {
			break
		}
		timer.Reset(idle)
		fromStream += int64(len(b))
		if _, werr := socket.Write(b); errors.Is(werr, net.ErrClosed) {
			break
		} // what cannot be sent is lost, as datagrams are
	}
	timer.Stop()
	socket.Close()
	stream.Close()
	wg.Wait()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return fromStream, fromSocket, err
}
