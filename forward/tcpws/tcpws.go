// Package tcpws carries TCP connections over WebSockets, one each: a Client
// listens for callers and dials a WebSocket for every one of them, a Server
// takes WebSockets and dials its target for every one. It speaks with
// tcp-over-websocket (trazfr, master of April 2025), both ways; between two of
// its own a connection also keeps its half-closes and resets, see
// docs/dialects/tcp-over-websocket.md.
//
//	s := tcpws.NewServer(tcpws.ServerOptions{Target: "db.internal:5432"})
//	err := s.Serve(ctx, listener)
//
//	c := tcpws.NewClient(tcpws.ClientOptions{URL: u})
//	err := c.Serve(ctx, listener)
package tcpws

import (
	"net"
	"strings"
	"time"
)

// headerFeatures is the header in which a client of our own offers what both
// ends may do beyond the original, and a server of our own names what of it
// holds.
const headerFeatures = "Adit-Tcp"

// Features that both ends have agreed on.
type features struct {
	ends     bool // ends and resets of each direction are told; see textEnd
	zeroMask bool // the client masks with the key 0
}

const (
	featureEnds     = "ends"
	featureZeroMask = "zero-mask"
)

func (f features) String() string {
	var list []string
	if f.ends {
		list = append(list, featureEnds)
	}
	if f.zeroMask {
		list = append(list, featureZeroMask)
	}
	return strings.Join(list, ", ")
}

// parseFeatures reads a header's values; what it does not know it leaves out.
func parseFeatures(values []string) (f features) {
	for _, v := range values {
		for word := range strings.SplitSeq(v, ",") {
			switch strings.TrimSpace(word) {
			case featureEnds:
				f.ends = true
			case featureZeroMask:
				f.zeroMask = true
			}
		}
	}
	return f
}

// and returns what both have.
func (f features) and(g features) features {
	return features{ends: f.ends && g.ends, zeroMask: f.zeroMask && g.zeroMask}
}

const (
	keepaliveEvery = 10 * time.Second // of silence, by the client, as the original
	lingerTime     = time.Minute      // of silence, by an original to which we have sent our end
	graceTime      = 10 * time.Second // for the rest, after one direction has failed
	drainTime      = 2 * time.Second  // for bytes that nobody wants any more, so that the end is none of ours
	closeTime      = 2 * time.Second  // for the answer to a close frame
	handshakeTime  = 45 * time.Second // as the original
	headTime       = 10 * time.Second
	requestTime    = time.Minute            // for all of a request that becomes no WebSocket; more than dialTime
	noticeTime     = 100 * time.Millisecond // for a caller that is refused to see that it was connected
	dialTime       = 30 * time.Second       // shorter than one of our own waits for its handshake

	patientDialTime = 150 * time.Second // after the handshake; the system gives up before
)

// tcpKeepAlive notices dead peers, since neither side pings, after the time that
// the original takes for that: it rides out what is shorter.
var tcpKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 9}

// tune sets what every TCP connection here has.
func tune(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetKeepAliveConfig(tcpKeepAlive)
	}
}
