package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// The backend serves HTTP/1.1 and the raw TCP modes on one port: the first
// byte of a connection says which (0x01 echo, 0x02 source, 0x03 sink, else
// HTTP). Datagrams to the same port come back. It is written on bare connections so that it costs little beside the
// tunnel that is measured.
const (
	rawEcho   = 0x01
	rawSource = 0x02 // then 8 bytes id, 8 bytes length (0: without end)
	rawSink   = 0x03 // then 8 bytes id; then frames of 4 bytes length + data; each is acknowledged with 8 bytes count + 1 byte status
)

func backendMain(args []string) int {
	fs := flag.NewFlagSet("backend", flag.ExitOnError)
	listen := fs.String("listen", "127.0.0.1:9000", "address to listen on")
	fs.Parse(args)
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(ln.Addr().(*net.TCPAddr).AddrPort()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	pc.SetReadBuffer(1 << 20)
	go backendUDP(pc)
	fmt.Println("backend on", ln.Addr())
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return 0
		}
		if err != nil { // such as no descriptors left
			time.Sleep(5 * time.Millisecond)
			continue
		}
		go backendConn(c) // ends with its connection; the process is ended by a signal
	}
}

// backendConn serves one connection and closes it.
func backendConn(c net.Conn) {
	defer c.Close()
	br := bufio.NewReaderSize(c, 4<<10)
	first, err := br.Peek(1)
	if err != nil {
		return
	}
	switch first[0] {
	case rawEcho:
		br.Discard(1)
		buf := make([]byte, 64<<10)
		for {
			n, err := br.Read(buf)
			if n > 0 {
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	case rawSource:
		var h [17]byte
		if _, err := io.ReadFull(br, h[:]); err != nil {
			return
		}
		n := int64(binary.BigEndian.Uint64(h[9:]))
		if n == 0 {
			n = 1 << 62
		}
		writePattern(c, seedOf(binary.BigEndian.Uint64(h[1:])), n)
		if cw, ok := c.(*net.TCPConn); ok {
			cw.CloseWrite()
		}
		io.Copy(io.Discard, br)
	case rawSink:
		backendSink(c, br)
	default:
		backendHTTP(c, br)
	}
}

// writePattern writes the first n bytes of the body with this seed.
func writePattern(w io.Writer, seed uint64, n int64) error {
	var off int64
	for off < n {
		k := min(n-off, patChunk)
		if _, err := w.Write(patAt(seed, off, int(k))); err != nil {
			return err
		}
		off += k
	}
	return nil
}

// backendSink verifies the frames of a visitor and acknowledges each.
func backendSink(c net.Conn, br *bufio.Reader) {
	var h [9]byte
	if _, err := io.ReadFull(br, h[:]); err != nil {
		return
	}
	v := verifier{seed: seedOf(binary.BigEndian.Uint64(h[1:]))}
	big := bufio.NewReaderSize(br, 128<<10)
	status := byte(0)
	for {
		var l [4]byte
		if _, err := io.ReadFull(big, l[:]); err != nil {
			return
		}
		left := int(binary.BigEndian.Uint32(l[:]))
		if left > 64<<20 {
			return // the framing itself is broken; the other side sees the missing acknowledgement
		}
		for left > 0 {
			b, err := peekSome(big, left)
			if err != nil {
				return
			}
			if status == 0 && !v.check(b) {
				status = 1
			}
			left -= len(b)
			big.Discard(len(b))
		}
		var ack [9]byte
		binary.BigEndian.PutUint64(ack[:], uint64(v.off))
		ack[8] = status
		if _, err := c.Write(ack[:]); err != nil {
			return
		}
	}
}

// peekSome returns between 1 and max buffered bytes without copying them.
func peekSome(br *bufio.Reader, max int) ([]byte, error) {
	if br.Buffered() == 0 {
		if _, err := br.Peek(1); err != nil {
			return nil, err
		}
	}
	return br.Peek(min(br.Buffered(), max))
}
