package adit

import (
	"context"
	"errors"
	"fmt"

	"adit/agent"
)

// A Tunnel is a public address of an adit server that leads to an upstream. Its
// methods are safe for concurrent use.
type Tunnel struct {
	link *link
}

// Forward publishes what listens at upstream: a port of this machine ("3000"),
// "host:port", "http://host:port", "https://host:port", whose certificate is
// verified, or "unix:/path". It returns when visitors can come. Options and ctx
// are as for Listen. The caller closes the Tunnel.
func Forward(ctx context.Context, upstream string, opts ...Option) (*Tunnel, error) {
	o, err := apply(opts)
	up, uerr := agent.ParseUpstream(upstream)
	if uerr != nil {
		err = errors.Join(err, fmt.Errorf("adit: %w", uerr))
	}
	if o.backlog != 0 {
		err = errors.Join(err, errors.New("adit: WithBacklog is for Listen"))
	}
	if err != nil {
		return nil, err
	}
	l, err := start(ctx, o, up, func() error { return nil })
	if err != nil {
		return nil, fmt.Errorf("adit: forward %q to %s: %w", o.id, up, err)
	}
	return &Tunnel{l}, nil
}

// URL returns the public address, or the best of several. It may become another
// when the connection to the server is lost; StateConnected then says so.
func (t *Tunnel) URL() string { return t.link.publicURL() }

// URLs returns all public addresses, best first.
func (t *Tunnel) URLs() []string { return t.link.publicURLs() }

// Status returns the latest event.
func (t *Tunnel) Status() Event { return t.link.current() }

// Close ends the tunnel with the visitors who are there, and returns when that
// is done. Calls after the first return nil. See Shutdown.
func (t *Tunnel) Close() error {
	t.link.end()
	return nil
}

// Shutdown asks the server for no more visitors and waits until those who are
// there have finished. When ctx ends it cuts them off, and returns ctx's error.
func (t *Tunnel) Shutdown(ctx context.Context) error { return t.link.shutdown(ctx) }

// Done is closed when nothing of the tunnel is left: after Close or Shutdown, or
// because it has ended by itself.
func (t *Tunnel) Done() <-chan struct{} { return t.link.done }

// Wait waits for Done. It returns nil after Close or Shutdown. Otherwise the
// tunnel has ended by itself, for a reason that does not pass; see
// Listener.Wait.
func (t *Tunnel) Wait() error { return t.link.wait() }
