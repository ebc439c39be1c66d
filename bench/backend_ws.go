package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// backendWS echoes the frames of a websocket connection.
func backendWS(c net.Conn, br *bufio.Reader, key []byte) {
	h := sha1.Sum(append(key, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(h[:]))
	for {
		var h [2]byte
		if _, err := io.ReadFull(br, h[:]); err != nil {
			return
		}
		n := int64(h[1] & 0x7f)
		var x [8]byte
		switch n {
		case 126:
			if _, err := io.ReadFull(br, x[:2]); err != nil {
				return
			}
			n = int64(binary.BigEndian.Uint16(x[:2]))
		case 127:
			if _, err := io.ReadFull(br, x[:8]); err != nil {
				return
			}
			n = int64(binary.BigEndian.Uint64(x[:8]))
		}
		var mask [4]byte
		if h[1]&0x80 != 0 {
			if _, err := io.ReadFull(br, mask[:]); err != nil {
				return
			}
		}
		if n > 16<<20 {
			return
		}
		p := make([]byte, n)
		if _, err := io.ReadFull(br, p); err != nil {
			return
		}
		for i := range p {
			p[i] ^= mask[i&3]
		}
		op := h[0] & 0x0f
		if op == 9 {
			op = 10 // pong
		} else if op == 10 {
			continue
		}
		out := []byte{h[0]&0xf0 | op}
		switch {
		case n < 126:
			out = append(out, byte(n))
		case n < 65536:
			out = append(out, 126, byte(n>>8), byte(n))
		default:
			out = append(out, 127)
			out = binary.BigEndian.AppendUint64(out, uint64(n))
		}
		if _, err := c.Write(append(out, p...)); err != nil || op == 8 {
			return
		}
	}
}
