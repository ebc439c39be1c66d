package adit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"adit"
	"adit/adittest"
)

func TestEventString(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		event adit.Event
		want  string
	}{
		{adit.Event{State: adit.StateConnecting}, "connecting"},
		{adit.Event{State: adit.StateConnected, URLs: []string{"https://a.example.com/", "https://b.example.com/"}}, "connected at https://a.example.com/"},
		{adit.Event{State: adit.StateReconnecting, Err: errors.New("no answer"), Wait: 2042 * time.Millisecond}, "reconnecting in 2.04s: no answer"},
		{adit.Event{State: adit.StateRefused, Err: &adit.RefusedError{Code: "name-taken", Reason: "it is another's"}}, "refused: refused by the server: it is another's (name-taken)"},
		{adit.Event{State: adit.StateClosed}, "closed"},
	} {
		if got := tt.event.String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// The events of a life, in their order.
func TestEvents(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	ev := newEvents()
	l := srv.Listen(t, adit.WithID("raw"), adit.WithTCP(0), ev.option())
	visitor := visit(t, l.URL())
	c := accept(t, l)
	pass(t, visitor, c, "hello")
	l.Close()
	c.Close()
	visitor.Close()
	wait(t, l)
	for _, want := range []adit.State{adit.StateConnecting, adit.StateConnected, adit.StateClosing, adit.StateClosed} {
		select {
		case e := <-ev:
			if e.State != want || e.Err != nil {
				t.Errorf("got %v, want %s", e, want)
			}
		default: // all have been told before Done is closed
			t.Errorf("no event, want %s", want)
		}
	}
}

// Whoever is told of an event can close the Listener.
func TestCloseInEvent(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	ready := make(chan *adit.Listener, 1)
	l := srv.Listen(t, adit.WithID("web"), adit.WithEvents(func(e adit.Event) {
		if e.State == adit.StateConnected {
			(<-ready).Close()
		}
	}))
	ready <- l
	if err := wait(t, l); err != nil {
		t.Errorf("Wait: %v, want nil", err)
	}
}

// Also a Tunnel, whose Close waits for more.
func TestCloseTunnelInEvent(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	ready := make(chan *adit.Tunnel, 1)
	tun := srv.Forward(t, "1", adit.WithID("web"), adit.WithEvents(func(e adit.Event) {
		if e.State == adit.StateConnected {
			(<-ready).Close()
		}
	}))
	ready <- tun
	if err := wait(t, tun); err != nil {
		t.Errorf("Wait: %v, want nil", err)
	}
}

// A receiver that hangs holds up Done, and nothing else.
func TestStuckEvents(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	release := make(chan struct{})
	l := srv.Listen(t, adit.WithID("web"), adit.WithEvents(func(adit.Event) { <-release }))
	l.Close()
	if err := l.Shutdown(cancelled()); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v, want %v", err, context.Canceled)
	}
	close(release)
	if err := wait(t, l); err != nil {
		t.Errorf("Wait: %v, want nil", err)
	}
}

// A receiver that is slow holds up nothing, and misses the oldest events alone.
func TestSlowEvents(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	release := make(chan struct{})
	told := make(chan adit.Event, 1000)
	l := srv.Listen(t, adit.WithID("raw"), adit.WithTCP(0), adit.WithEvents(func(e adit.Event) {
		<-release
		told <- e
	}))
	visitor := visit(t, l.URL())
	c := accept(t, l)
	for range 40 { // two events or more each time
		srv.Cut()
		pass(t, visitor, c, "hello")
	}
	l.Close()
	c.Close()
	visitor.Close()
	close(release)
	if err := wait(t, l); err != nil {
		t.Errorf("Wait: %v, want nil", err)
	}
	close(told)
	n, last := 0, adit.Event{}
	for last = range told {
		n++
	}
	if n > 70 || last.State != adit.StateClosed {
		t.Errorf("told of %d events, the last of them %v; want at most 70, and %s", n, last, adit.StateClosed)
	}
}
