package forest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"adit/internal/backoff"
	"adit/internal/pacing"
	"adit/internal/relay"
	"adit/internal/wayout"
	"adit/tunnel"
)

// AgentOptions configures an Agent beyond its file.
type AgentOptions struct {
	// Log receives what happens. If nil, it is lost.
	Log *log.Logger

	// Output receives the changes of state that the original prints. If nil,
	// they are lost.
	Output io.Writer

	// Out is the way out to the server, through a proxy perhaps; nil is
	// straight.
	Out *wayout.Dialer

	// DialContext opens the sockets of Out, and dials upstreams; nil is a
	// net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// An Agent stays connected to a server, and connects its streams to services.
type Agent struct {
	config AgentConfig
	opts   AgentOptions
	log    *log.Logger
	tls    *tls.Config // nil without TLS

	mu       sync.Mutex // guards the fields below
	services map[string]string
	state    string
}

// NewAgent reads the files that c names. Run connects.
func NewAgent(c AgentConfig, opts AgentOptions) (*Agent, error) {
	if opts.Log == nil {
		opts.Log = log.New(io.Discard, "", 0)
	}
	if opts.Output == nil {
		opts.Output = io.Discard
	}
	if opts.DialContext == nil {
		opts.DialContext = (&net.Dialer{Timeout: answerTime, Control: pacing.Control}).DialContext
	}
	a := &Agent{config: c, opts: opts, log: opts.Log, services: c.ServiceToLocalAddrMap, state: "ClientStarted"}
	if !c.UseTls {
		a.log.Print("warning: UseTls is false, so everybody on the way can read and change what passes")
		return a, nil
	}
	var err error
	a.tls, err = agentTLS(c, a.log)
	if err == nil {
		host, _, _ := net.SplitHostPort(c.ServerAddr)
		a.tls.ServerName = host
	}
	return a, err
}

// Run stays connected until ctx ends. An error is one of the admin socket.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	if a.config.AdminUnixSocket != "" {
		ln, err := listenAdmin(a.config.AdminUnixSocket)
		if err != nil {
			return err
		}
		wg.Go(func() { cancel(a.serveAdmin(ctx, ln)) })
	}
	fmt.Fprintf(a.opts.Output, "client %s has started\n", a.config.ClientIdentifier)
	b := backoff.Backoff{Min: 250 * time.Millisecond, Max: 15 * time.Second}
	for ctx.Err() == nil {
		a.become("ClientConnecting", nil)
		served, err := a.session(ctx)
		if ctx.Err() != nil {
			break
		}
		a.become("ClientDisconnected", err)
		if served {
			b.Reset()
		}
		b.Wait(ctx) // an error is that of ctx
	}
	a.become("ClientClosed", nil)
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// session connects once and serves. served says that there was a session.
func (a *Agent) session(ctx context.Context) (served bool, err error) {
	dialCtx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conn, err := a.dialServer(dialCtx, "tcp", a.config.ServerAddr)
	if err != nil {
		return false, err
	}
	limitUnsent(plainConn(conn))
	if a.tls != nil {
		tc := tls.Client(&socket{Conn: conn}, a.tls)
		if err := tc.HandshakeContext(dialCtx); err != nil {
			conn.Close()
			return false, err
		}
		conn = tc
	}
	s, err := connect(dialCtx, conn, a.config.identity())
	if err != nil {
		return false, err
	}
	a.become("ClientConnected", nil)
	return true, s.run(ctx, a.serve)
}

// dialServer opens a connection to one of the server's addresses.
func (a *Agent) dialServer(ctx context.Context, _, addr string) (net.Conn, error) {
	out := wayout.Dialer{}
	if a.opts.Out != nil {
		out = *a.opts.Out
	}
	out.DialContext = a.opts.DialContext
	server := &url.URL{Scheme: "http", Host: addr}
	if a.tls != nil {
		server.Scheme = "https"
	}
	return out.Dial(ctx, server)
}

func (a *Agent) become(state string, err error) {
	a.mu.Lock()
	last := a.state
	a.state = state
	a.mu.Unlock()
	if last == state {
		return
	}
	why := ""
	if err != nil {
		why = fmt.Sprintf(" (%v)", err)
	}
	fmt.Fprintf(a.opts.Output, "clientStateChange: [%s] %s->%s%s\n", a.config.ClientIdentifier, last, state, why)
}

// upstream returns where the streams of a request go.
func (a *Agent) upstream(r request) (network, addr string, ok bool) {
	if r.Action != actionOpen || r.TransportProtocol != 0 && r.TransportProtocol != transportTCP {
		return "", "", false
	}
	if r.Service == "" && r.LocalPort > 0 && r.LocalPort < 1<<16 && a.config.twoPort() {
		return "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.LocalPort)), true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	name := r.Service
	if name == "" {
		name = strconv.Itoa(r.LocalPort)
	}
	addr, ok = a.services[name]
	return "tcp", addr, ok
}

// serve connects one stream to its service.
func (a *Agent) serve(ctx context.Context, r request) {
	if r.busy {
		r.stream.refuse(tunnel.RefuseBusy, "")
		return
	}
	network, addr, ok := a.upstream(r)
	if !ok {
		a.log.Printf("the server asks for the service %q (port %d), which there is not", r.Service, r.LocalPort)
		r.stream.refuse(tunnel.RefuseUnknownService, "")
		return
	}
	dialCtx, cancel := context.WithTimeout(ctx, answerTime)
	up, err := a.opts.DialContext(dialCtx, network, addr)
	cancel()
	if err != nil {
		a.log.Printf("service %q: %v", r.Service, err)
		code := tunnel.RefuseUpstreamRefused
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
			code = tunnel.RefuseUpstreamTimeout
		}
		r.stream.refuse(code, "")
		return
	}
	stop := context.AfterFunc(ctx, func() { up.Close() })
	defer stop()
	if err := r.stream.accept(); err != nil {
		up.Close()
		return
	}
	if !r.stream.ours {
		// To an original the end of one direction is the end of both: it reads
		// nothing more after its own.
		up = whole{up}
	}
	relay.Relay(up, r.stream, relay.Options{Abort: func(c net.Conn, _ error) {
		if w, ok := c.(whole); ok {
			c = w.Conn
		}
		tunnel.Abort(c, tunnel.ResetUpstream, "")
	}})
}
