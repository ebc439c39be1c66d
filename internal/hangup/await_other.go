//go:build !unix

package hangup

import (
	"context"
	"net"
)

// Await cannot be told here: what ends a relay is that the other direction
// cannot write.
func Await(net.Conn) bool { return false }

func awaitLeft(context.Context, net.Conn) bool { return false }
