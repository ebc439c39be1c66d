package route_test

import (
	"context"
	"errors"
	"net"
	"sync"

	"adit/tunnel"
)

// fakeTunnel is a tunnel that is told whether it is available.
type fakeTunnel struct {
	name string
	done chan struct{}
	once sync.Once

	mu      sync.Mutex
	away    bool
	changed []func()
	end     tunnel.EndCode
}

func newTunnel(name string) *fakeTunnel {
	return &fakeTunnel{name: name, done: make(chan struct{})}
}

func (f *fakeTunnel) String() string        { return f.name }
func (f *fakeTunnel) ID() tunnel.ID         { return tunnel.ID(f.name) }
func (f *fakeTunnel) Done() <-chan struct{} { return f.done }

func (f *fakeTunnel) Close() error {
	f.once.Do(func() {
		close(f.done)
		f.tell()
	})
	return nil
}

func (f *fakeTunnel) End(code tunnel.EndCode, _ string) error {
	f.mu.Lock()
	f.end = code
	f.mu.Unlock()
	return f.Close()
}

func (f *fakeTunnel) OpenStream(context.Context, tunnel.StreamInfo) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

func (f *fakeTunnel) Available() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.away
}

func (f *fakeTunnel) OnAvailability(g func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = append(f.changed[:len(f.changed):len(f.changed)], g)
}

func (f *fakeTunnel) setAway(away bool) {
	f.mu.Lock()
	f.away = away
	f.mu.Unlock()
	f.tell()
}

func (f *fakeTunnel) tell() {
	f.mu.Lock()
	changed := f.changed
	f.mu.Unlock()
	for _, g := range changed {
		g()
	}
}

// plainTunnel tells nobody of its end.
type plainTunnel struct{ f *fakeTunnel }

func (p plainTunnel) ID() tunnel.ID         { return p.f.ID() }
func (p plainTunnel) Done() <-chan struct{} { return p.f.Done() }
func (p plainTunnel) Close() error          { return p.f.Close() }

func (p plainTunnel) OpenStream(ctx context.Context, info tunnel.StreamInfo) (net.Conn, error) {
	return p.f.OpenStream(ctx, info)
}
