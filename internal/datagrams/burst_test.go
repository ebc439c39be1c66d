package datagrams_test

import (
	"bytes"
	"net"
	"testing"
	"time"

	"adit/internal/datagrams"
	"adit/internal/testdatagrams"
)

// What comes in one burst stays in order and apart, both ways.
func TestRelayBursts(t *testing.T) {
	t.Parallel()
	far, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	far.SetDeadline(time.Now().Add(patience))
	socket, err := net.Dial("udp", far.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, stream := net.Pipe()
	near.SetDeadline(time.Now().Add(patience))
	ended := make(chan error, 1)
	go func() {
		_, _, err := datagrams.Relay(stream, socket, patience, abort)
		ended <- err
	}()
	var burst [][]byte
	var bytesOnStream []byte
	for i, n := range []int{1400, 1400, 1400, 60, 0, 1400, 0, 0, 9000, 9000, 1, 1400, 1400, 1400, 1399, 65507, 2, 2, 2} {
		b := bytes.Repeat([]byte{byte(i)}, n)
		burst = append(burst, b)
		bytesOnStream = append(append(bytesOnStream, byte(n>>8), byte(n)), b...)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := near.Write(bytesOnStream)
		wrote <- err
	}()
	buf := make([]byte, 1<<16)
	var from net.Addr
	for i, want := range burst {
		var n int
		if n, from, err = far.ReadFrom(buf); err != nil || !bytes.Equal(buf[:n], want) {
			t.Fatalf("datagram %d to the socket: got %d bytes, %v; want %d", i, n, err, len(want))
		}
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	for _, b := range burst {
		far.WriteTo(b, from) // while nobody reads the stream
	}
	for i, want := range burst {
		if b, err := testdatagrams.Read(near); err != nil || !bytes.Equal(b, want) {
			t.Fatalf("datagram %d to the stream: got %d bytes, %v; want %d", i, len(b), err, len(want))
		}
	}
	near.Close()
	if err := <-ended; err != nil {
		t.Errorf("Relay: %v", err)
	}
}
