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
	"os"
	"sync"
	"time"

	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/backoff"
	"adit/tunnel"
)

// ErrSuperseded says that another process of the same agent has taken over.
var ErrSuperseded = errors.New("agent: another process serves the same tunnels from here")

// A Tunnel is one upstream and the public address that it gets.
type Tunnel struct {
	ID       tunnel.ID
	Kind     dialect.Kind
	Port     uint16 // public TCP port; 0 lets the server choose
	Upstream *Upstream

	// As in dialect.Binding.
	Hostnames []string
	HTTP2     bool
	Policy    []byte
}

// Options configures Run. Server, Token and Tunnels are required.
type Options struct {
	// Server is the server's URL: ws, wss, http or https.
	Server string

	// Token returns the credential: the server's secret, or a JWT. It is
	// called for each attempt to connect.
	Token func() (string, error)

	// Tunnels are what is exposed, at least one.
	Tunnels []Tunnel

	// Instance tells agents with the same ID apart: one that comes back
	// takes over from its old self, another one shares the visitors. Empty
	// means this machine and these upstreams.
	Instance string

	// TLS configures wss; nil verifies the server against the system's
	// certificates.
	TLS *tls.Config

	// DialContext is the way out to the server; nil is the network's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

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
	Phase Phase
	Bound []dialect.Bound // Connected: of Options.Tunnels, in their order
	Err   error           // Reconnecting, Refused: why
	Wait  time.Duration   // until the next attempt; 0 if it is being made
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

var errDrained = errors.New("the server takes no new streams")

// An agent is a running Run.
type agent struct {
	opts   Options
	log    *slog.Logger
	dialer *native.Dialer
	byName map[string]Tunnel // by service

	ports    []uint16 // public TCP port that each tunnel had last; of the goroutine in Run
	handlers handlerServers
	streams  sync.WaitGroup // relays, and sessions that drain
	mu       sync.Mutex     // held while OnState or OnRoundTrip runs
}

// Run keeps the tunnels up until ctx ends, and then returns nil after open
// streams had Options.Grace to finish. It returns an error if the options are
// wrong, a tunnel is refused for a reason that will not pass, or
// ErrSuperseded.
func Run(ctx context.Context, opts Options) error {
	a, err := newAgent(opts)
	if err != nil {
		return err
	}
	defer a.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before the wait in end
	b := backoff.Backoff{Min: reconnectMin, Max: reconnectMax}
	a.state(State{Phase: Connecting})
	for {
		begin := time.Now()
		err := a.connect(ctx)
		lasted := time.Since(begin)
		if lasted >= steady {
			b.Reset()
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case final(err):
			return err
		case errors.Is(err, errDrained) && lasted >= steady:
			continue // another server may be there already
		}
		wait := b.Next()
		phase := Reconnecting
		if refused, after := native.Refused(err); refused {
			phase, wait = Refused, max(wait, min(after, reconnectMax))
		}
		a.log.Warn("not connected", "err", err, "dur", wait)
		a.state(State{Phase: phase, Err: err, Wait: wait})
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// end waits until nothing of the agent is left.
func (a *agent) end() {
	a.streams.Wait() // ends with the sessions, and so with all streams
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	a.handlers.shutdown(ctx)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// final reports whether trying again is of no use: it would need other options.
func final(err error) bool {
	var be *dialect.BindError
	if errors.As(err, &be) {
		switch be.Code {
		case dialect.BindInvalid, dialect.BindForbidden:
			return true
		}
	}
	return errors.Is(err, ErrSuperseded)
}

func newAgent(opts Options) (*agent, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if len(opts.Tunnels) == 0 {
		return nil, errors.New("agent: no tunnels")
	}
	if opts.Grace <= 0 {
		opts.Grace = closeTimeout
	}
	a := &agent{
		opts:     opts,
		log:      opts.Logger,
		handlers: handlerServers{log: opts.Logger},
		byName:   make(map[string]Tunnel),
		ports:    make([]uint16, len(opts.Tunnels)),
	}
	key := sha256.New()
	host, _ := os.Hostname()
	fmt.Fprintf(key, "%q", host)
	for i, t := range opts.Tunnels {
		if _, err := tunnel.ParseID(string(t.ID)); err != nil {
			return nil, fmt.Errorf("agent: tunnel %d: %w", i+1, err)
		}
		if t.Upstream == nil {
			return nil, fmt.Errorf("agent: tunnel %q has no upstream", t.ID)
		}
		a.byName[service(i)] = t
		fmt.Fprintf(key, "%q%q%d%q", t.ID, t.Kind, t.Port, t.Upstream)
	}
	if opts.Instance == "" {
		opts.Instance = hex.EncodeToString(key.Sum(nil)[:12])
	}
	a.dialer = &native.Dialer{
		Server:      opts.Server,
		Token:       opts.Token,
		ID:          opts.Tunnels[0].ID,
		Instance:    opts.Instance,
		TLS:         opts.TLS,
		DialContext: opts.DialContext,
	}
	return a, a.dialer.Check()
}

// service is the name by which the server asks for the upstream of a tunnel.
func service(i int) string {
	if i == 0 {
		return "" // the default: saves bytes in each OPEN
	}
	return fmt.Sprint(i)
}

func (a *agent) state(s State) {
	if a.opts.OnState == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.opts.OnState(s)
}

// connect runs one session until it ends, and returns why. errDrained means that
// the agent is to connect elsewhere; the session lives on until its streams have
// ended.
func (a *agent) connect(ctx context.Context) error {
	var mu sync.Mutex // guards the next two
	var bound []dialect.Bound
	retired := false // another session speaks for the agent
	so := a.opts.Session
	so.Logger = a.log
	so.OnCarrier = func(lost error, wait time.Duration) {
		if lost == nil {
			a.log.Info("session resumed")
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case retired:
		case lost != nil:
			a.state(State{Phase: Reconnecting, Err: lost, Wait: wait})
		case bound != nil:
			a.state(State{Phase: Connected, Bound: bound})
		}
	}
	s, err := native.Dial(ctx, a.dialer, so)
	if err != nil {
		return err
	}
	drain := make(chan struct{}, 1)
	s.OnChange(func() {
		if s.Draining() {
			select {
			case drain <- struct{}{}:
			default:
			}
		}
	})
	// Serve goes on while streams finish, so that they survive their carrier.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	a.streams.Go(func() { ended <- s.Serve(serving) })
	a.streams.Go(func() { a.accept(s) })

	got, err := a.bind(ctx, s)
	if err != nil {
		stop()
		s.Close()
		return reason(err)
	}
	mu.Lock()
	bound = got
	a.state(State{Phase: Connected, Bound: got})
	mu.Unlock()
	if a.opts.OnRoundTrip != nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		a.streams.Go(func() { a.followRoundTrip(ctx, s) })
	}

	select {
	case err := <-ended:
		stop()
		s.Close()
		return reason(err)
	case <-drain:
		a.log.Info("server drains")
		mu.Lock()
		retired = true
		mu.Unlock()
		a.streams.Go(func() {
			defer stop()
			a.finish(ctx, s, func() {})
		})
		return errDrained
	case <-ctx.Done():
		defer stop()
		a.finish(ctx, s, func() { a.state(State{Phase: Stopping}) })
		return context.Cause(ctx)
	}
}

// reason names the end of a session.
func reason(err error) error {
	if superseded, _ := native.Ended(err); superseded {
		return ErrSuperseded
	}
	return err
}

// bind asks for the public addresses of all tunnels.
func (a *agent) bind(ctx context.Context, s *native.Session) ([]dialect.Bound, error) {
	ctx, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	bound := make([]dialect.Bound, len(a.opts.Tunnels))
	for i, t := range a.opts.Tunnels {
		b := dialect.Binding{
			Key:     fmt.Sprint(i),
			Kind:    t.Kind,
			ID:      t.ID,
			Service: service(i),
			Port:    t.Port,

			Hostnames: t.Hostnames,
			HTTP2:     t.HTTP2,
			Policy:    t.Policy,
		}
		if b.Port == 0 {
			b.Port = a.ports[i]
		}
		got, err := s.Bind(ctx, b)
		var be *dialect.BindError
		if errors.As(err, &be) && b.Port != t.Port {
			b.Port = t.Port // the one of last time is not to be had
			got, err = s.Bind(ctx, b)
		}
		if err != nil {
			return nil, fmt.Errorf("bind %q: %w", t.ID, err)
		}
		a.ports[i] = got.Port
		bound[i] = got
	}
	return bound, nil
}

// finish closes s when its streams have ended. When ctx ends it asks for no more
// of them, calls told, and gives them the time of Options.Grace.
func (a *agent) finish(ctx context.Context, s *native.Session, told func()) {
	limit := time.NewTimer(drainTimeout)
	defer limit.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	ending := ctx.Done()
	var cut <-chan struct{}
	for wait := true; wait && s.Streams() > 0; {
		select {
		case <-tick.C:
		case <-ending:
			ending, cut = nil, a.opts.Cut
			s.Drain("the agent is shutting down")
			limit.Reset(a.opts.Grace)
			told()
		case <-cut:
			wait = false
		case <-limit.C:
			wait = false
		case <-s.Done():
			wait = false
		}
	}
	s.Close()
}
