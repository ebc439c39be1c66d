// Package agent is the side behind the firewall: it dials out to a server,
// stays connected, and relays the streams that the server opens to upstreams.
//
//	err := agent.Run(ctx, agent.Options{
//		Server: "wss://tunnel.example.com",
//		Token:  func() (string, error) { return token, nil },
//		Tunnels: []agent.Tunnel{{ID: "web", Kind: dialect.HTTP, Upstream: up}},
//	})
package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/wayout"
)

// ErrSuperseded says that another process of the same agent has taken over.
var ErrSuperseded = errors.New("agent: another process serves the same tunnels from here")

// Options configures Run. Server and Tunnels are required, and Token or a
// certificate in TLS.
type Options struct {
	// Server is the server's URL: ws, wss, http or https.
	Server string

	// Token returns the credential: the server's secret, or a token. It is
	// called for each attempt to connect. If nil, none is shown: TLS then
	// shows a certificate.
	Token func() (string, error)

	// NextToken waits until last, on which a session lives, is to be replaced,
	// and returns what replaces it; ctx ends with the session, which goes on
	// with all its streams. After an error it is called again, after a pause.
	// If nil, Token is asked for another one before a JWT expires; see
	// RefreshAt.
	NextToken func(ctx context.Context, last string) (string, error)

	// NextCertificate waits until TLS shows another certificate than it did
	// when it was called, so that the session shows it too; ctx ends with
	// the session. If nil, a new one shows when the session loses its
	// connection. An error is the end of it.
	NextCertificate func(ctx context.Context) error

	// Tunnels are what is exposed, at least one unless Forwards is set.
	Tunnels []Tunnel

	// Forwards says that the agent is there for OpenTarget too, or only.
	Forwards bool

	// Instance tells agents with the same ID apart: one that comes back
	// takes over from its old self, another one shares the visitors. Empty
	// means this machine and these upstreams.
	Instance string

	// Connections is how many sessions the agent has at a time, each on a
	// connection of its own, so that one that loses packets or stalls does not
	// hold up everything; up to native.MaxConnections. 0 means 1.
	Connections int

	// TLS configures wss; nil verifies the server against the system's
	// certificates.
	TLS *tls.Config

	// Out is the way out to the server, through a proxy perhaps; nil is
	// straight. It serves every carrier.
	Out *wayout.Dialer

	// Carrier is the kind of carriers of its sessions; empty means
	// native.Auto, the best that works in the network, which Chooser knows. If
	// that is nil the agent has one of its own, without a file.
	Carrier native.Carrier
	Chooser *native.Chooser

	// DialContext opens the sockets of Out; nil is the network's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Host is the Host that the server, or what stands before it, is asked
	// for; empty means that of Server. The name in TLS is TLS.ServerName.
	Host string

	// Header is sent to the server with each carrier, for what stands before
	// it. The credential, and names that begin with Adit-, cannot be set.
	Header http.Header

	// Session are the options of sessions; the agent sets OnCarrier itself.
	Session native.SessionOptions

	// Grace is how long open streams may finish when Run's ctx ends; 0 means
	// 5 s.
	Grace time.Duration

	// Cut, when it is closed, ends open streams for which Run still waits
	// after its ctx has ended. It may be nil.
	Cut <-chan struct{}

	// OnState is told of each change, one at a time; it must not block.
	OnState func(State)

	// OnRoundTrip is told of the round trip time to the server when it has
	// been measured anew, one at a time; it must not block. It is known soon
	// after Connected.
	OnRoundTrip func(time.Duration)

	// OnCarrier is told which carrier the agent is connected by when that has
	// changed, one at a time; it must not block.
	OnCarrier func(native.Carrier)

	// OnStream is told when a stream has been opened to its upstream, and
	// when one has ended or came to nothing. It may be called for several
	// streams at the same time, and must not block.
	OnStream func(Stream)

	// OnRequest is told of each HTTP request: when it has arrived, when its
	// response begins, unless it ends with that, and when it is done. It may
	// be called for several at the same time, and must not block. Setting it
	// has the agent look at the bytes of HTTP streams, which are passed on
	// as they are; it gives up on those that do not look like HTTP/1.1.
	OnRequest func(Request)

	// Logger receives the agent's events. If nil, nothing is logged.
	Logger *slog.Logger
}

// A Phase is where an agent stands with its server.
type Phase string

const (
	Connecting   Phase = "connecting"
	Connected    Phase = "connected"
	Reconnecting Phase = "reconnecting" // it was connected before
	Refused      Phase = "refused"      // the server, or a bind, said no; it is tried again
	Stopping     Phase = "stopping"     // Run's ctx has ended, and the server knows; open streams finish
)

// A State is a phase with what goes with it.
type State struct {
	Phase   Phase
	Tunnels []Tunnel        // Connected: those of Options or of the last Update
	Bound   []dialect.Bound // Connected: of Tunnels, in their order; zero for one that is not bound
	Errs    []error         // Connected: why it is not, in the same order; nil for one that is
	Err     error           // Reconnecting, Refused: why
	Wait    time.Duration   // until the next attempt; 0 if it is being made

	// Connections is how many of Options.Connections are up, if that is more
	// than one. The phase is Connected if any is.
	Connections int
}

const (
	reconnectMin = 250 * time.Millisecond
	reconnectMax = 15 * time.Second
	bindTimeout  = 15 * time.Second
	drainTimeout = 10 * time.Minute // for streams on a session that the server drains
	closeTimeout = 5 * time.Second  // for streams when Run ends: the default of Options.Grace

	// steady is how long a session has to have lasted for its end to be
	// something new, and not the next of many failures.
	steady = 10 * time.Second
)

var errStopped = errors.New("the agent has stopped")

var errDrained = errors.New("the server takes no new streams")

// An Agent keeps tunnels up. Its methods are safe for concurrent use.
type Agent struct {
	opts    Options
	log     *slog.Logger
	dialer  *native.Dialer
	lanes   []*lane // one for each of Options.Connections
	present present
	ports   portMemory

	leaving func() // closes left
	left    chan struct{}

	streams sync.WaitGroup // relays, sessions and handlers that drain
	telling sync.Mutex     // held while OnState or OnRoundTrip runs; guards states
	states  []State        // of lanes
}

// New returns an agent, which Run starts. It returns an error if the options
// are wrong.
func New(opts Options) (*Agent, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if err := checkTunnels(opts.Tunnels, opts.Forwards); err != nil {
		return nil, err
	}
	if opts.Connections < 0 || opts.Connections > native.MaxConnections {
		return nil, fmt.Errorf("agent: %d connections: 1 to %d are allowed", opts.Connections, native.MaxConnections)
	}
	opts.Connections = max(opts.Connections, 1)
	if opts.Grace <= 0 {
		opts.Grace = closeTimeout
	}
	if opts.Carrier == "" {
		opts.Carrier = native.Auto
	}
	if opts.Carrier == native.Auto && opts.Chooser == nil {
		opts.Chooser = native.NewChooser("", opts.Logger)
	}
	if opts.Instance == "" {
		opts.Instance = defaultInstance(opts.Tunnels)
	}
	left := make(chan struct{})
	a := &Agent{
		opts:    opts,
		log:     opts.Logger,
		left:    left,
		leaving: sync.OnceFunc(func() { close(left) }),
		dialer: &native.Dialer{
			Server:      opts.Server,
			Instance:    opts.Instance,
			TLS:         opts.TLS,
			Out:         opts.Out,
			DialContext: opts.DialContext,
			Host:        opts.Host,
			Header:      opts.Header,
			Carrier:     opts.Carrier,
			Chooser:     opts.Chooser,
		},
	}
	check := *a.dialer
	check.Token = opts.Token
	if err := check.Check(); err != nil {
		return nil, err
	}
	a.addLanes()
	return a, nil
}

// defaultInstance tells agents on this machine apart by their tunnels.
func defaultInstance(tunnels []Tunnel) string {
	key := sha256.New()
	host, _ := os.Hostname()
	fmt.Fprintf(key, "%q", host)
	for _, t := range tunnels {
		fmt.Fprintf(key, "%q%q%d%q", t.ID, t.Kind, t.Port, t.Upstream)
	}
	return hex.EncodeToString(key.Sum(nil)[:12])
}

// Run keeps the tunnels of opts up; see Agent.Run.
func Run(ctx context.Context, opts Options) error {
	a, err := New(opts)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// Update replaces the agent's tunnels by others, at least one. One that is the
// same as before, with the same Upstream and the same fields, is not touched.
// The others are bound before those that are no longer there are unbound;
// streams of the latter go on until they end. With an error nothing has
// changed.
//
// It does not wait: State says what became of it. A tunnel that the server
// refuses is tried again from time to time, and does not disturb the others.
func (a *Agent) Update(tunnels []Tunnel) error {
	if err := checkTunnels(tunnels, a.opts.Forwards); err != nil {
		return err
	}
	for _, l := range a.lanes {
		l.tunnels.update(tunnels)
	}
	return nil
}

// Drain takes back all tunnels for good, and lets Run return nil when the open
// streams have ended, after 10 minutes at most. It does not wait.
func (a *Agent) Drain() { a.leaving() }

// Run keeps the tunnels up until ctx ends, and then returns nil after open
// streams had Options.Grace to finish. It returns an error if at its start a
// tunnel is refused for a reason that will not pass, or ErrSuperseded. It can
// be called once.
func (a *Agent) Run(ctx context.Context) error {
	defer a.end()
	defer a.present.end(errStopped)
	ctx, cut := context.WithCancel(ctx)
	defer cut()                               // before the wait in end
	trying, cancel := context.WithCancel(ctx) // ends with Drain too
	defer cancel()
	a.streams.Go(func() {
		select {
		case <-a.left:
			cancel()
		case <-trying.Done():
		}
	})
	if via := a.dialer.Via(); via != "" {
		a.log.Info("the way to the server is through a proxy", "proxy", via)
	}
	var wg sync.WaitGroup
	failed := make(chan error, len(a.lanes))
	for _, l := range a.lanes {
		wg.Go(func() {
			if !l.mayBegin(trying) {
				return
			}
			if err := l.run(ctx, trying); err != nil {
				failed <- err
				cut() // the others are of no use without it
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// end waits until nothing of the agent is left.
func (a *Agent) end() {
	a.streams.Wait() // ends with the sessions, and so with all streams
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	for _, l := range a.lanes {
		l.handlers.shutdown(ctx)
	}
}
