package carrier

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// errNoPong is that a WebSocket is of no use.
var errNoPong = errors.New("the WebSocket was opened, but carries nothing: something on the way holds its bytes back")

// verify sends a ping (RFC 6455, section 5.5.2) over a WebSocket that was just
// opened, on which the other side has no reason yet to say anything but pong.
// early is what was read of it already; what is to be read first afterwards is
// returned.
func verify(conn net.Conn, early []byte, limit time.Duration) ([]byte, error) {
	const size = 8
	var token, key [size]byte
	rand.Read(token[:])
	rand.Read(key[:4])
	ping := []byte{0x89, 0x80 | size, key[0], key[1], key[2], key[3]}
	for i, b := range token {
		ping = append(ping, b^key[i%4])
	}
	conn.SetDeadline(time.Now().Add(limit))
	defer conn.SetDeadline(time.Time{})
	if _, err := conn.Write(ping); err != nil {
		return nil, fmt.Errorf("send ping: %w", err)
	}
	var pong [2 + size]byte
	r := io.MultiReader(bytes.NewReader(early), conn)
	if _, err := io.ReadFull(r, pong[:]); err != nil {
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			return nil, errNoPong
		}
		return nil, fmt.Errorf("read pong: %w", err)
	}
	if pong[0] != 0x8a || pong[1] != size || !bytes.Equal(pong[2:], token[:]) {
		return nil, errors.New("the answer to a ping is something else")
	}
	return early[min(len(pong), len(early)):], nil
}
