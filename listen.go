package adit

import (
	"context"
	"fmt"
	"net"

	"adit/agent"
)

// A Listener accepts the conns that visitors make to a public address of an
// adit server. Its methods are safe for concurrent use.
type Listener struct {
	link *link
	ln   *agent.Listener
}

var _ net.Listener = (*Listener)(nil)

// Listen gets a public address and returns when visitors can come. The options
// WithServer, WithToken (or their environment variables) and WithID are
// required; the address is one for HTTP unless WithTCP or WithTLS asks for
// another.
//
// ctx bounds the start alone; if it has no deadline Listen gives up after 30 s.
// Until then it tries again to reach the server. What cannot change by waiting
// fails at once: wrong options, a refusal (the error then wraps ErrRefused), or
// a token function that fails. The caller closes the Listener.
func Listen(ctx context.Context, opts ...Option) (*Listener, error) {
	o, err := apply(opts)
	if err != nil {
		return nil, err
	}
	o.listening = true
	ln := agent.NewListener(o.id, o.backlog)
	l, err := start(ctx, o, ln.Upstream(), ln.Close)
	if err != nil {
		return nil, fmt.Errorf("adit: listen as %q: %w", o.id, err)
	}
	return &Listener{l, ln}, nil
}

// Accept returns the next visitor's conn, a *Conn, which the caller closes.
// After Close its error wraps net.ErrClosed. If the Listener has ended by
// itself it is why, as Wait returns it.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.ln.Accept()
	if err != nil {
		if why := l.link.ended(); why != nil {
			return nil, why
		}
		return nil, &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
	}
	return &Conn{c.(*agent.Conn)}, nil
}

// Addr returns the host and port of URL, for network "tcp". There, visitors
// reach the server; what leads them from there to the program may be the
// hostname or the path of the URL.
func (l *Listener) Addr() net.Addr { return l.link.addr() }

// URL returns the public address, or the best of several, such as
// "https://shop.tunnel.example.com/" or "tcp://tunnel.example.com:2222". It may
// become another when the connection to the server is lost; StateConnected then
// says so.
func (l *Listener) URL() string { return l.link.publicURL() }

// URLs returns all public addresses, best first.
func (l *Listener) URLs() []string { return l.link.publicURLs() }

// Status returns the latest event.
func (l *Listener) Status() Event { return l.link.current() }

// Close ends Accept, and asks the server for no more visitors; it waits until
// that is sent, or a second has passed. Visitors who wait for Accept are turned
// away. Nothing is dialled after that but for accepted conns that have lost their
// way. Conns that were accepted stay open, as with other listeners, until they
// are closed or 10 minutes have passed; a program that ends before that cuts
// them off, so that visitors wait for the rest in vain for a minute. See
// Shutdown.
//
// Calls after the first return nil.
func (l *Listener) Close() error {
	l.ln.Close()
	l.link.stop()
	return nil
}

// Shutdown is Close, and waits until all conns have ended and the server knows.
// When ctx ends it closes those that have not, and returns ctx's error. A server
// of package http is to be shut down before, which ends its conns:
//
//	srv.Shutdown(ctx)
//	l.Shutdown(ctx)
func (l *Listener) Shutdown(ctx context.Context) error {
	l.ln.Close()
	return l.link.shutdown(ctx)
}

// Done is closed when nothing of the Listener is left: some time after Close,
// or because it has ended by itself.
func (l *Listener) Done() <-chan struct{} { return l.link.done }

// Wait waits for Done. It returns nil after Close or Shutdown. Otherwise the
// Listener has ended by itself, for a reason that does not pass: another program
// has taken over (ErrSuperseded). A server that cannot be reached any more, or
// refuses what it allowed before, is no such reason.
func (l *Listener) Wait() error { return l.link.wait() }
