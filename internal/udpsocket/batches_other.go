//go:build !linux

package udpsocket

import (
	"errors"
	"net"
)

// batches are not there on this system.
type batches struct{}

func newBatches(*net.UDPConn, bool, bool) *batches { return nil }

func (*batches) receive(func(Run)) error { return errors.ErrUnsupported }

func (*batches) send(Envelope, [][]byte, bool) (Sent, error) { return Sent{}, errors.ErrUnsupported }
