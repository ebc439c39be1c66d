//go:build !unix

package relay

import "net"

// awaitHangup cannot be told here: what ends the relay is that the other
// direction ends, or Options.Idle.
func awaitHangup(net.Conn) bool { return false }
