package wsmux

import (
	"fmt"
)

// A Type is what a frame is.
type Type byte

const (
	DAT Type = 0 // bytes of the stream, at least one
	SYN Type = 1 // opens a stream; no payload
	ACK Type = 2 // four bytes of credit; the first one accepts the stream
	FIN Type = 3 // nothing more will be written; no payload

	// RST belongs to the extension: a code of two bytes and a reason end the
	// stream with an error. Before the ACK it refuses the stream, and after
	// the sender's FIN it says that nobody reads what the receiver writes.
	RST Type = 4
)

// String returns the type's name, such as "DAT".
func (t Type) String() string {
	if t <= RST {
		return [...]string{"DAT", "SYN", "ACK", "FIN", "RST"}[t]
	}
	return fmt.Sprintf("type-%d", byte(t))
}

const (
	frameHead = 5   // bytes of type and stream
	maxReason = 256 // bytes of the reason in RST
	maxCredit = 1<<63 - 1<<33
)

// A ProtocolError is what the other side did wrong. It ends the session with
// close code 1008, or 1002 where WebSocket itself was broken.
type ProtocolError struct {
	Code   int    // that was sent
	Reason string // the same text as the close frame's
}

func (e *ProtocolError) Error() string { return "wsmux: " + e.Reason }

// The reasons of code 1008. Their texts are those of websocktunnel 103.0.0 and
// later.
const (
	badHeader  = "malformed header"
	badPayload = "malformed payload"
	badMessage = "unexpected non-binary websocket message"
)
