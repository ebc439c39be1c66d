package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"adit/internal/hangup"
	"adit/internal/pacing"
	"adit/internal/relay"
	"adit/internal/usersocket"
	"adit/tunnel"
)

const (
	// maxConns is how many connections a Local has at a time, those that are
	// being opened among them.
	maxConns = 8192

	// openTimeout bounds the opening of a stream, the wait for a connection to
	// the server included.
	openTimeout = 25 * time.Second

	// greetingTimeout bounds what a connection has to say of its target.
	greetingTimeout = 10 * time.Second
)

// Options configures a Local. Open is required.
type Options struct {
	// Open connects streams.
	Open OpenFunc

	// Logger receives what becomes of connections. If nil, nothing is logged.
	Logger *slog.Logger

	// IdleUDP is for how long the datagrams of one sender may pause before
	// they are forgotten; 0 means datagrams.IdleTimeout.
	IdleUDP time.Duration
}

// A Local is where a forward listens.
type Local struct {
	spec Spec
	opts Options
	log  *slog.Logger
	ln   net.Listener // nil with udp
	pc   *net.UDPConn // of udp

	conns sync.WaitGroup

	mu   sync.Mutex            // guards the fields below
	open map[net.Conn]net.Conn // by connection its stream; nil before there is one
	over bool
}

// Listen opens the listener of a Direct or Socks forward. The caller runs it,
// which closes it.
func Listen(spec Spec, opts Options) (*Local, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Local{spec: spec, opts: opts, open: make(map[net.Conn]net.Conn)}
	var err error
	switch spec.Network {
	case "udp":
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp", spec.Local); err == nil {
			l.pc = pc.(*net.UDPConn)
		}
	case "unix":
		l.ln, err = usersocket.Listen(spec.Local)
	case "tcp":
		lc := net.ListenConfig{Control: pacing.Control}
		lc.SetMultipathTCP(false)
		l.ln, err = lc.Listen(context.Background(), "tcp", spec.Local)
	default:
		return nil, fmt.Errorf("forward %s does not listen", spec)
	}
	if err != nil {
		return nil, err
	}
	l.log = opts.Logger.With("listen", l.Addr().String())
	return l, nil
}

// Addr returns where l listens.
func (l *Local) Addr() net.Addr {
	if l.pc != nil {
		return l.pc.LocalAddr()
	}
	return l.ln.Addr()
}

// Run serves connections until ctx ends, and then those that are open until
// they do; Close cuts them. It returns nil after ctx has ended, or why the
// listener failed.
func (l *Local) Run(ctx context.Context) error {
	defer l.conns.Wait()
	if l.pc != nil {
		return l.runUDP(ctx)
	}
	stop := context.AfterFunc(ctx, func() { l.ln.Close() })
	defer stop()
	defer l.ln.Close()
	for {
		c, err := l.ln.Accept()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case isPassing(err):
			l.log.Warn("connection not accepted", "err", err)
			pause := time.NewTimer(100 * time.Millisecond) // until something is free again
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
			pause.Stop()
			continue
		default:
			return err
		}
		if !l.add(c) {
			l.log.Warn("connection refused: there are too many")
			reset(c)
			continue
		}
		l.conns.Go(func() {
			defer l.remove(c)
			l.serve(ctx, c)
		})
	}
}

func isPassing(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && !errors.Is(err, net.ErrClosed)
}

// Close cuts the connections that are open, and lets Run take no more.
func (l *Local) Close() error {
	if l.ln != nil {
		l.ln.Close()
	}
	if l.pc != nil {
		l.pc.Close()
	}
	l.mu.Lock()
	l.over = true
	var open []net.Conn
	for c, stream := range l.open {
		open = append(open, c)
		if stream != nil { // c may have ended its direction long ago, and then is not looked at
			open = append(open, stream)
		}
	}
	l.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	return nil
}

// add counts a conn in, unless there are too many or l is closed.
func (l *Local) add(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || len(l.open) >= maxConns {
		return false
	}
	l.open[c] = nil
	return true
}

// join notes the stream of a conn that is counted in, and closes it if l is
// closed.
func (l *Local) join(c, stream net.Conn) {
	l.mu.Lock()
	l.open[c] = stream
	over := l.over
	l.mu.Unlock()
	if over {
		stream.Close()
	}
}

func (l *Local) remove(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

// serve relays one connection.
func (l *Local) serve(ctx context.Context, c net.Conn) {
	if l.spec.Kind == Socks {
		(&greeter{log: l.log, dial: l.dial, relay: l.relay, associate: l.associate}).serve(ctx, c)
		return
	}
	stream, err := dialUnlessLeft(ctx, func(ctx context.Context) (net.Conn, error) {
		return l.dial(ctx, c, l.spec.Target)
	}, func(ctx context.Context) bool { return hangup.Left(ctx, c) })
	if err != nil {
		reset(c)
		return
	}
	l.relay(c, stream, l.spec.Target)
}

// dial opens a stream for c, and logs why not.
func (l *Local) dial(ctx context.Context, c net.Conn, t tunnel.Target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	stream, err := l.opts.Open(ctx, t)
	switch {
	case err == nil:
		l.join(c, stream)
	case context.Cause(ctx) == errLeft:
		l.log.Debug("forward given up", "target", t.String(), "remote", c.RemoteAddr().String())
	default:
		l.log.Warn("forward failed", "target", t.String(), "remote", c.RemoteAddr().String(), "err", err)
	}
	return stream, err
}

func (l *Local) relay(c, stream net.Conn, t tunnel.Target) {
	began := time.Now()
	res, err := relay.Relay(c, stream, relay.Options{Abort: abortRelay})
	l.log.Debug("forward ended", "target", t.String(), "sent", res.AtoB, "received", res.BtoA, "dur", time.Since(began).Round(time.Millisecond), "err", err)
}

// abortRelay ends one side of a forward so that its far side sees it.
func abortRelay(c net.Conn, cause error) {
	code := tunnel.ResetUpstream
	if re, ok := errors.AsType[*tunnel.ResetError](cause); ok {
		code = re.Code
	}
	tunnel.Abort(c, code, "")
}

// reset closes c so that its far side sees an error.
func reset(c net.Conn) { tunnel.Abort(c, tunnel.ResetCancelled, "") }
