package native

import (
	"context"
	"net"
	"net/url"
	"strings"

	"adit/carrier"
	"adit/carrier/requests"
)

// A Carrier is a way for a session's bytes to cross the network, as
// docs/carriers.md describes them.
type Carrier string

const (
	WebSocket Carrier = "websocket"
	Stream    Carrier = Carrier(requests.Stream) // one long response, and requests
	Poll      Carrier = Carrier(requests.Poll)   // short requests alone
	QUIC      Carrier = "quic"                   // a WebSocket on a stream of QUIC, over UDP
)

// Carriers are those that every server takes, best first.
var Carriers = []Carrier{WebSocket, Stream, Poll}

// dialKind dials a carrier of that kind.
func dialKind(ctx context.Context, kind Carrier, cd *carrier.Dialer) (net.Conn, error) {
	switch kind {
	case WebSocket:
		return cd.Dial(ctx)
	case QUIC:
		conn, err := cd.DialQUIC(ctx)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	u, err := url.Parse(cd.URL)
	if err != nil {
		return nil, err // it was made by connectURL
	}
	return cd.DialRequests(ctx, requests.Kind(kind), strings.TrimSuffix(u.Path, Path)+CarrierPath)
}
