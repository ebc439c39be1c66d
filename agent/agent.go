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
	"adit/internal/backoff"
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

	// TLS configures wss; nil verifies the server against the system's
	// certificates.
	TLS *tls.Config

	// Out is the way out to the server, through a proxy perhaps; nil is
	// straight. It serves every carrier.
	Out *wayout.Dialer

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
	tunnels *tunnelSet
	present present

	leaving func() // closes left
	left    chan struct{}
	drained chan struct{} // gets one when a session that the server drained has ended

	settled  bool // everything was bound once; of the goroutine in Run
	handlers *handlerServers
	streams  sync.WaitGroup // relays, sessions and handlers that drain
	telling  sync.Mutex     // held while OnState or OnRoundTrip runs
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
	if opts.Grace <= 0 {
		opts.Grace = closeTimeout
	}
	if opts.Instance == "" {
		opts.Instance = defaultInstance(opts.Tunnels)
	}
	left := make(chan struct{})
	a := &Agent{
		opts:     opts,
		log:      opts.Logger,
		handlers: newHandlerServers(opts.Logger),
		tunnels:  newTunnelSet(opts.Tunnels),
		left:     left,
		drained:  make(chan struct{}, 1),
		leaving:  sync.OnceFunc(func() { close(left) }),
		dialer: &native.Dialer{
			Server:      opts.Server,
			Instance:    opts.Instance,
			TLS:         opts.TLS,
			Out:         opts.Out,
			DialContext: opts.DialContext,
			Host:        opts.Host,
			Header:      opts.Header,
		},
	}
	check := *a.dialer
	check.Token = opts.Token
	if err := check.Check(); err != nil {
		return nil, err
	}
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
	a.tunnels.update(tunnels)
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
	b := backoff.Backoff{Min: reconnectMin, Max: reconnectMax}
	a.state(State{Phase: Connecting})
	for {
		begin := time.Now()
		err := a.connect(ctx, trying)
		lasted := time.Since(begin)
		if lasted >= steady {
			b.Reset()
		}
		a.present.set(nil, err)
		switch {
		case trying.Err() != nil:
			return nil
		case a.final(err):
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
		if !a.pause(trying, wait, &b) {
			return nil
		}
	}
}

// pause waits for d, and reports false if ctx ended before. When a server that
// drained ends meanwhile, one in its place may be there soon: the wait begins
// anew with the shortest one.
func (a *Agent) pause(ctx context.Context, d time.Duration, b *backoff.Backoff) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return true
		case <-a.drained:
			b.Reset()
			t.Reset(b.Next())
		case <-ctx.Done():
			return false
		}
	}
}

// end waits until nothing of the agent is left.
func (a *Agent) end() {
	a.streams.Wait() // ends with the sessions, and so with all streams
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	a.handlers.shutdown(ctx)
}

// final reports whether trying again is of no use: it would need other options.
// Once everything was bound it is the server's mind or the credential that has
// changed, and may change again.
func (a *Agent) final(err error) bool {
	if be, ok := errors.AsType[*dialect.BindError](err); ok && !a.settled {
		return be.Code == dialect.BindInvalid || be.Code == dialect.BindForbidden
	}
	return errors.Is(err, ErrSuperseded)
}

func (a *Agent) state(s State) {
	if a.opts.OnState == nil {
		return
	}
	a.telling.Lock()
	defer a.telling.Unlock()
	a.opts.OnState(s)
}

// connect runs one session until it ends, and returns why. errDrained means that
// the agent is to connect elsewhere; the session lives on until its streams have
// ended. trying ends with ctx or before.
func (a *Agent) connect(ctx, trying context.Context) error {
	st := newSitting(a)
	present, _ := a.tunnels.snapshot()
	d := *a.dialer
	if len(present) > 0 {
		d.ID = present[0].ID
	}
	shown := &shownToken{token: a.opts.Token}
	if a.opts.Token != nil {
		d.Token = shown.next
	}
	so := a.opts.Session
	so.Logger = a.log
	so.OnCarrier = st.onCarrier
	s, err := native.Dial(trying, &d, so)
	if err != nil {
		return err
	}
	st.session = s
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
	a.streams.Go(func() { a.keepCredential(s, shown.first) })

	st.settle(trying)
	if err := st.failure(); err != nil {
		stop()
		s.Close()
		return reason(err)
	}
	a.settled = true
	a.present.set(s, nil)
	st.tell()
	if a.opts.OnRoundTrip != nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		a.streams.Go(func() { a.followRoundTrip(ctx, s) })
	}
	for {
		again := st.again()
		select {
		case err := <-ended:
			again.Stop()
			stop()
			s.Close()
			return reason(err)
		case <-drain:
			again.Stop()
			a.log.Info("server drains")
			st.retire()
			a.streams.Go(func() {
				defer stop()
				st.finish(ctx, true, func() {})
				select {
				case a.drained <- struct{}{}:
				default:
				}
			})
			return errDrained
		case <-trying.Done():
			again.Stop()
			defer stop()
			if ctx.Err() == nil {
				st.leave(ctx)
				a.state(State{Phase: Stopping})
			}
			st.finish(ctx, false, func() { a.state(State{Phase: Stopping}) })
			return context.Cause(trying)
		case <-a.tunnels.changed:
		case <-again.C:
		}
		again.Stop()
		if st.settle(trying) {
			st.tell()
		}
	}
}

// reason names the end of a session.
func reason(err error) error {
	if superseded, _ := native.Ended(err); superseded {
		return ErrSuperseded
	}
	return err
}

// retire forgets tunnels that are bound no more.
func (a *Agent) retire(gone []*member) {
	for _, up := range a.tunnels.retire(gone) {
		if up.handler != nil {
			a.handlers.retire(up)
		}
	}
}
