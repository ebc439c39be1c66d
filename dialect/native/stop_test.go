package native

import (
	"context"
	"errors"
	"net"
	"testing"
)

// Whoever has been told to stop neither asks for a credential nor dials.
func TestNothingIsDialledAfterTheEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, kind := range []Carrier{WebSocket, Auto} {
		d := &Dialer{
			Server:  "ws://server.test",
			Carrier: kind,
			Chooser: NewChooser("", nil),
			Token:   func() (string, error) { t.Errorf("%s: asked for a credential", kind); return "", nil },
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				t.Errorf("%s: dialled", kind)
				return nil, errors.New("nobody there")
			},
		}
		if _, _, err := d.dial(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want %v", kind, err, context.Canceled)
		}
	}
	closed := make(chan struct{})
	close(closed)
	for range 1000 {
		if sleep(ctx, nil, 0) || sleep(t.Context(), closed, 0) {
			t.Fatal("sleep returned true after the end")
		}
	}
}
