// Package forward reaches TCP, UDP and unix sockets from an agent's machine
// through the server. At the agent a Local listens and asks for targets:
//
//	spec, err := forward.ParseSpec("2222:db.internal:22")
//	...
//	local, err := forward.Listen(spec, forward.Options{Open: agent.OpenTarget})
//	...
//	err = local.Run(ctx)
//
// On the server a Dialer connects the streams, by the rules of the agent's
// credential, which it asks about the very address that it dials:
//
//	var d forward.Dialer
//	conn, err := d.Dial(ctx, target, forward.Rules{scope})
//
// The other way round an Exit, at an agent, connects streams of visitors and of
// other agents that say themselves where they go, by rules of its own:
//
//	up := agent.SocksUpstream(forward.NewExit(rules))
//
// What is written on streams of datagrams is in docs/protocol/native.md.
package forward

import (
	"context"
	"net"

	"adit/tunnel"
)

// An OpenFunc connects a stream to a target through the server. ctx bounds that
// alone. The error is a *tunnel.RefusedError if the server refuses.
type OpenFunc func(ctx context.Context, t tunnel.Target) (net.Conn, error)
