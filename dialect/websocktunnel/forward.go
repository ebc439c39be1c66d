package websocktunnel

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"adit/internal/relay"
	"adit/tunnel"
)

// forwardDial bounds the dial to an upstream.
const forwardDial = 10 * time.Second

// Forward relays each stream of l to a conn that dial opens, until there are no
// more streams, and returns why, when all have ended. When ctx ends it takes no
// new streams, gives the others grace to finish, and closes l.
func Forward(ctx context.Context, l *Listener, grace time.Duration, dial func(context.Context) (net.Conn, error)) error {
	var streams sync.WaitGroup
	defer streams.Wait()
	finished := make(chan struct{})
	defer func() { <-finished }()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		defer close(finished)
		select {
		case <-ctx.Done():
			l.drain(grace)
			l.Close()
		case <-ended:
		}
	}()
	for {
		in, err := l.AcceptIncoming()
		switch {
		case err == nil:
			streams.Go(func() { l.forward(ctx, in, dial) })
		case errors.Is(err, ErrReconnecting):
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			return err
		}
	}
}

// forward relays one stream.
func (l *Listener) forward(ctx context.Context, in tunnel.Incoming, dial func(context.Context) (net.Conn, error)) {
	if ctx.Err() != nil {
		in.Refuse(tunnel.RefuseDraining, "the agent is shutting down")
		return
	}
	dialling, cancel := context.WithTimeout(ctx, forwardDial)
	defer cancel()
	conn, err := dial(dialling)
	if err != nil {
		l.log.Warn("upstream not reached", "err", err)
		code, reason := tunnel.RefuseUpstreamRefused, "the upstream is not reachable"
		var ne net.Error
		switch {
		case errors.As(err, &ne) && ne.Timeout():
			code, reason = tunnel.RefuseUpstreamTimeout, "the upstream did not answer in time"
		case errors.Is(err, syscall.ECONNREFUSED):
			reason = "the upstream refused the connection"
		}
		in.Refuse(code, reason)
		return
	}
	if in.Accept() != nil {
		in.Close()
		conn.Close()
		return
	}
	opts := relay.Options{Abort: func(c net.Conn, _ error) { tunnel.Abort(c, tunnel.ResetUpstream, "") }}
	if !in.(incoming).Extended() {
		opts.EndWith = in // servers say only that they are done with both
	}
	res, err := relay.Relay(in, conn, opts)
	l.log.Debug("stream ended", "sent", res.BtoA, "received", res.AtoB, "err", err)
}

// drain waits until no stream is open, or limit is over.
func (l *Listener) drain(limit time.Duration) {
	end := time.NewTimer(limit)
	defer end.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for l.Streams() > 0 {
		select {
		case <-tick.C:
		case <-end.C:
			return
		}
	}
}
