package native_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"adit/dialect"
	"adit/dialect/native"
)

// TestMove moves a session from each carrier to each other one in the middle of
// a transfer both ways, which must lose nothing by it.
func TestMove(t *testing.T) {
	t.Parallel()
	for _, from := range native.Carriers {
		for _, to := range native.Carriers {
			t.Run(fmt.Sprintf("%s to %s", from, to), func(t *testing.T) {
				t.Parallel()
				fs := newFakeServer(t, tcp, native.Options{})
				d := fs.dialer("secret")
				d.Carrier = from
				tun, s := fs.connect(t, d, native.SessionOptions{})
				t.Cleanup(func() { s.Close() })
				near, far := stream(t, tun, s)
				carried := func(want native.Carrier) {
					t.Helper()
					if got := tun.(interface{ Carrier() string }).Carrier(); got != string(want) {
						t.Errorf("the server says that the session is on %q, want %q", got, want)
					}
					if got := s.Carrier(); got != want {
						t.Errorf("the agent says that the session is on %q, want %q", got, want)
					}
				}
				carried(from)
				data := make([]byte, 8<<20)
				rand.NewChaCha8([32]byte{}).Read(data)
				done := make(chan error, 4)
				for _, c := range []io.ReadWriter{near, far} {
					go func() {
						_, err := c.Write(data)
						done <- err
					}()
					go func() {
						got := make([]byte, len(data))
						_, err := io.ReadFull(c, got)
						if err == nil && !bytes.Equal(got, data) {
							err = errors.New("other bytes have come than were sent")
						}
						done <- err
					}()
				}
				for _, kind := range []native.Carrier{to, from, to} {
					if err := s.Move(t.Context(), kind); err != nil {
						t.Fatalf("Move to %s: %v", kind, err)
					}
					if a := fs.next(t); !errors.Is(a.err, dialect.ErrResumed) || a.t != tun {
						t.Fatalf("Accept: %v, %v; want the same tunnel and ErrResumed", a.t, a.err)
					}
					carried(kind)
				}
				for range 4 {
					select {
					case err := <-done:
						if err != nil {
							t.Error(err)
						}
					case <-time.After(patience):
						t.Fatal("the transfer has not ended")
					}
				}
			})
		}
	}
}
