// Package tunnel defines what the server knows of one connected agent: a
// Tunnel, anything that can open a stream to the far side. Every dialect
// yields one.
//
//	conn, err := t.OpenStream(ctx, tunnel.StreamInfo{Service: "web"})
//	if err != nil {
//		return err // wraps ErrClosed, ErrRefused or ctx's error
//	}
//	defer conn.Close()
//
// What only some tunnels or streams can do is an interface of its own, found by
// assertion: EarlyOpener, Availability, Prober, Ender, Drainer, Instancer,
// HalfCloser, Resetter and http.RoundTripper.
package tunnel

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// A Tunnel opens streams to one connected agent. Its methods are safe for
// concurrent use.
type Tunnel interface {
	// ID is the name that the agent registered under.
	ID() ID

	// OpenStream returns a stream that the agent has accepted. ctx bounds
	// the opening only: cancelling it later does not touch the stream. The
	// caller closes the stream.
	//
	// The error wraps ErrClosed if the tunnel has ended, ErrRefused if the
	// agent could not reach its upstream, errors.ErrUnsupported if the
	// dialect carries no byte streams, or ctx's error.
	OpenStream(ctx context.Context, info StreamInfo) (net.Conn, error)

	// Done is closed once OpenStream can only fail.
	Done() <-chan struct{}

	// Close ends the tunnel and its streams, and waits for its goroutines.
	// Calls after the first return nil.
	Close() error
}

// An EarlyOpener is a tunnel that opens a stream without waiting for the
// agent's answer, which saves a round trip: what is written at once travels
// with the opening. If the agent then refuses, Read and Write of the stream
// fail with a *RefusedError, and no byte reached an upstream.
//
// OpenEarly does not block. Its error wraps ErrClosed if the tunnel has ended.
type EarlyOpener interface {
	OpenEarly(info StreamInfo) (net.Conn, error)
}

// Availability is implemented by tunnels that may be unable to reach their
// agent for a while without having ended, such as a session between two
// carriers or one that drains. A tunnel without it is available until Done.
type Availability interface {
	// Available reports whether a stream that is opened now would reach the
	// agent at once.
	Available() bool

	// OnAvailability registers f to be called after each change, and when the
	// tunnel has ended, from any goroutine; f must not block, and may call the
	// tunnel's Available. Several may be registered.
	OnAvailability(f func())
}

// A Prober is a tunnel whose agent can be asked for a sign of life, sooner than
// the dialect does by itself. Its methods do not block.
type Prober interface {
	// Probe asks the agent to say something.
	Probe()

	// Heard returns when something came from the agent last.
	Heard() time.Time
}

// An Ender is a tunnel that can tell its agent why it is closed.
type Ender interface {
	// End is Close with a reason. reason is for people.
	End(code EndCode, reason string) error
}

// An EndCode says why the server ends a tunnel, so that the agent knows whether
// to come back.
type EndCode uint8

const (
	EndDone       EndCode = iota // no reason; come back
	EndCredential                // the credential expired or was withdrawn; come back with another
	EndSuperseded                // the same agent has a newer session; don't come back
	EndShutdown                  // the server stops; come back later
)

// A Drainer is a tunnel whose agent can be told that this server is about to
// stop, so that it looks for another one. Streams go on, and for visitors that
// are still here more can be opened, until the tunnel is closed.
type Drainer interface {
	Drain(reason string)

	// Streams returns the number of open streams.
	Streams() int
}

// An Instancer is a tunnel whose agent tells itself apart from others under the
// same ID. A new tunnel with the ID and the Instance of an older one is the
// same agent that came back. Empty means that it does not say.
type Instancer interface {
	Instance() string
}

// A Parallel is a tunnel that may be one of several of the same agent. Those of
// one run and one instance stand beside each other: a new one takes the place of
// the one with its number. Those of another run are the same agent before it was
// started again. run is empty if the agent has one tunnel at a time.
type Parallel interface {
	Parallel() (run string, number int)

	// Load returns the number of open streams, and whether a stream that is
	// opened now would have to wait, as far as that shows. It does not block.
	Load() (streams int, stalled bool)
}

// A HalfCloser is a stream whose writing side can end on its own. Every stream
// of a dialect that can express it is one, as *net.TCPConn is.
type HalfCloser interface {
	CloseWrite() error
}

// A Resetter is a stream that can end with an error: the far side's Read and
// Write fail, instead of a Read that sees a clean end. It implies Close.
type Resetter interface {
	Reset(code ResetCode, reason string) error
}

// StreamInfo tells the agent what a stream is for. The zero value asks for the
// agent's default service on behalf of nobody in particular.
type StreamInfo struct {
	// Service names the upstream at the agent; empty means its default.
	Service string

	// Protocol is what the visitor speaks: "http", "tcp" or "tls".
	Protocol string

	// Visitor is the visitor's address, Local the address of the server that
	// it connected to. Either may be the zero AddrPort if unknown.
	Visitor, Local netip.AddrPort

	// Host is the hostname that the visitor asked for, in lower case and
	// without port: the HTTP Host, or the server name of a ClientHello.
	Host string
}

// An Incoming is a stream as the agent gets it, not yet answered. The agent
// answers it once, with Accept or Refuse; the first Write accepts too.
type Incoming interface {
	net.Conn

	// Info is what the opener said of the stream. It is the far side's word.
	Info() StreamInfo

	// Accept tells the opener that the upstream is connected.
	Accept() error

	// Refuse tells the opener why there is no upstream, and closes the
	// stream. reason is for people and is cut to 256 bytes.
	Refuse(code RefuseCode, reason string) error
}
