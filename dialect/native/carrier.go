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
)

// Carriers are all of them, best first.
var Carriers = []Carrier{WebSocket, Stream, Poll}

// dialKind dials a carrier of that kind.
func dialKind(ctx context.Context, kind Carrier, cd *carrier.Dialer) (net.Conn, error) {
	if kind == WebSocket {
		return cd.Dial(ctx)
	}
	u, err := url.Parse(cd.URL)
	if err != nil {
		return nil, err // it was made by connectURL
	}
	return cd.DialRequests(ctx, requests.Kind(kind), strings.TrimSuffix(u.Path, Path)+CarrierPath)
}
