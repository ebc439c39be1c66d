package forward

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"adit/auth"
	"adit/internal/relay"
	"adit/tunnel"
)

// Of one Exit.
const (
	maxExits     = 8192 // streams at a time
	maxExitDials = 64   // targets that are dialled at a time
)

// An Exit is where streams come out that say themselves where they go, with
// SOCKS5 or HTTP CONNECT: an agent's way into its network, for others. It dials
// as far as its rules allow, by the very address. Its methods are safe for
// concurrent use.
type Exit struct {
	rules  Rules
	dialer Dialer

	open  atomic.Int64
	dials chan struct{}
}

// NewExit returns an exit that may go where one of the rules says; without any
// it may go everywhere but to the special addresses and those of this machine,
// as a server may with the rule "*:*".
func NewExit(rules []auth.ForwardRule) *Exit {
	if len(rules) == 0 {
		everywhere, err := auth.ParseForwardRule("*:*")
		if err != nil {
			panic(err)
		}
		rules = []auth.ForwardRule{everywhere}
	}
	return &Exit{rules: Rules{{Forward: rules}}, dials: make(chan struct{}, maxExitDials)}
}

// ParseExitRule parses a rule about hosts for NewExit, as
// auth.ParseForwardRule does. There are none about services or sockets: SOCKS
// has no words for those.
func ParseExitRule(s string) (auth.ForwardRule, error) {
	r, err := auth.ParseForwardRule(s)
	if err == nil && (r.ID != "" || r.Socket != "") {
		return auth.ForwardRule{}, fmt.Errorf("forward rule %.80q: want HOST:PORTS, since connections to socks name hosts and ports", s)
	}
	return r, err
}

// Enter counts a stream in, unless there are too many. Who gets true calls
// Leave when the stream has ended.
func (e *Exit) Enter() bool {
	if e.open.Add(1) > maxExits {
		e.open.Add(-1)
		return false
	}
	return true
}

// Leave is for after Enter.
func (e *Exit) Leave() { e.open.Add(-1) }

// Serve hears from c where it goes, connects it, and relays until both have
// ended. It closes c, and returns the bytes that it took from c and from the
// target, without those about the target. The error is what broke the relay, or
// why there was none. ctx ends a dial.
func (e *Exit) Serve(ctx context.Context, c net.Conn, log *slog.Logger) (received, sent int64, err error) {
	g := greeter{
		log: log,
		dial: func(ctx context.Context, _ net.Conn, t tunnel.Target) (stream net.Conn, derr error) {
			if stream, derr = e.dial(ctx, t); derr != nil {
				log.Warn("exit refused", "target", t.String(), "err", derr)
				err = fmt.Errorf("%s: %w", t, derr)
			}
			return stream, derr
		},
		relay: func(c, stream net.Conn, t tunnel.Target) {
			began := time.Now()
			var res relay.Result
			res, err = relay.Relay(c, stream, relay.Options{Abort: abortRelay})
			received, sent = res.AtoB, res.BtoA
			log.Debug("exit ended", "target", t.String(), "sent", sent, "received", received, "dur", time.Since(began).Round(time.Millisecond), "err", err)
		},
	}
	g.serve(ctx, c)
	return received, sent, err
}

// dial connects to a target. The error is a *tunnel.RefusedError.
func (e *Exit) dial(ctx context.Context, t tunnel.Target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	select {
	case e.dials <- struct{}{}:
	case <-ctx.Done():
		return nil, &tunnel.RefusedError{Code: tunnel.RefuseBusy, Reason: "too many targets are being dialled already"}
	}
	defer func() { <-e.dials }()
	return e.dialer.Dial(ctx, t, e.rules)
}
