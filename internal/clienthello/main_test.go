package clienthello_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/clienthello"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A recorder is a conn that takes what is written and ends each read.
type recorder struct{ bytes.Buffer }

func (*recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (*recorder) Close() error                     { return nil }
func (*recorder) LocalAddr() net.Addr              { return nil }
func (*recorder) RemoteAddr() net.Addr             { return nil }
func (*recorder) SetDeadline(time.Time) error      { return nil }
func (*recorder) SetReadDeadline(time.Time) error  { return nil }
func (*recorder) SetWriteDeadline(time.Time) error { return nil }

// hello returns the ClientHello of a client with this configuration.
func hello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	var r recorder
	tls.Client(&r, config).Handshake()
	if r.Len() == 0 {
		t.Fatal("no ClientHello")
	}
	return r.Bytes()
}

// records spreads a message, which is in one record, over records of n bytes.
func records(b []byte, n int) (out []byte) {
	for msg := b[5:]; len(msg) > 0; {
		part := msg[:min(n, len(msg))]
		msg = msg[len(part):]
		out = append(out, 22, 3, 1, byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
	}
	return out
}

// scan gives b to a scanner, step bytes at a time.
func scan(b []byte, step int) (clienthello.Hello, error) {
	var s clienthello.Scanner
	for n := 0; ; {
		n = min(n+step, len(b))
		done, err := s.Scan(b[:n])
		switch {
		case err != nil:
			return clienthello.Hello{}, err
		case done:
			return s.Hello()
		case n == len(b):
			return clienthello.Hello{}, io.ErrUnexpectedEOF
		}
	}
}

// A replay is a conn that has b to read.
type replay struct {
	recorder
	b *bytes.Reader
}

func (r *replay) Read(p []byte) (int, error) { return r.b.Read(p) }

var errSeen = errors.New("seen")

// standard returns what package crypto/tls reads out of b.
func standard(b []byte) (name string, protocols []string, ok bool) {
	server := tls.Server(&replay{b: bytes.NewReader(b)}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name, protocols, ok = h.ServerName, h.SupportedProtos, true
			return nil, errSeen
		},
	})
	server.HandshakeContext(context.Background())
	return name, protocols, ok
}
