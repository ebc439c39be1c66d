package forward

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
)

func FuzzSocksRequest(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x03\x04host\x00\x07"))
	f.Add([]byte("\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		command, target, _, err := readSocksRequest(bytes.NewReader(b))
		if err == nil && command == socksConnect && target.Check() != nil {
			t.Errorf("got the target %+v", target)
		}
		if target, payload, err := parseSocksDatagram(b); err == nil {
			again, p, err := parseSocksDatagram(append(appendSocksTarget([]byte{0, 0, 0}, target), payload...))
			if err != nil || again != target || !bytes.Equal(p, payload) {
				t.Errorf("got %+v, %v, want %+v again", again, err, target)
			}
		}
	})
}

func FuzzConnect(f *testing.F) {
	f.Add("CONNECT host:7 HTTP/1.1\r\nHost: host:7\r\n\r\n")
	f.Add("GET / HTTP/1.1\r\n\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		target, status, err := readConnect(bufio.NewReaderSize(strings.NewReader(s), maxConnectHead))
		if err == nil && (target.Check() != nil || status != 0) {
			t.Errorf("got the target %+v and status %d", target, status)
		}
		if err != nil && status != 0 && connectTexts[status] == "" {
			t.Errorf("status %d has no text", status)
		}
	})
}
