package native

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"adit/carrier"
	"adit/internal/recall"
	"adit/session"
)

// Auto stands for a choice among all carriers: the best one that works.
const Auto Carrier = "auto"

const (
	// firstHeadStart is how long a carrier is tried alone about which nothing
	// is known, and leastHeadStart one that is known to be quick, from when the
	// server is reached: until then all carriers are the same.
	firstHeadStart = 1500 * time.Millisecond
	leastHeadStart = 500 * time.Millisecond
	mostHeadStart  = 6 * time.Second

	// reachTimeout is how long a carrier may take to reach the server before
	// the next one is tried as well.
	reachTimeout = 5 * time.Second

	// verifyTimeout is how long a WebSocket may take for the answer to a first
	// ping.
	verifyTimeout = 3 * time.Second

	// shortLife is how long a carrier lasts at most that is of no use, and
	// longLife one at least that is.
	shortLife = 20 * time.Second
	longLife  = time.Minute

	// betterAfter is when a better carrier is looked for first, and betterMost
	// the longest wait before it is looked for again.
	betterAfter = time.Minute
	betterMost  = 30 * time.Minute
)

// A Chooser knows which carriers work in which network. Its methods are safe
// for concurrent use, and all sessions of a process may have the same one.
type Chooser struct {
	memory *recall.Memory
	log    *slog.Logger
	after  time.Duration // betterAfter, but in tests
}

// NewChooser returns a Chooser that remembers in the file at path, or with an
// empty path for as long as it is there. logger may be nil.
func NewChooser(path string, logger *slog.Logger) *Chooser {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	m, err := recall.Open(path, recall.Options{})
	if err != nil {
		logger.Warn("carriers are chosen anew", "err", err)
	}
	return &Chooser{memory: m, log: logger, after: betterAfter}
}

// noted logs that what was learnt could not be written.
func (c *Chooser) noted(err error) {
	if err != nil {
		c.log.Debug("carriers not remembered", "err", err)
	}
}

// network returns the name of the network that the machine is in.
func (d *Dialer) network() string {
	u, err := url.Parse(d.Server)
	if err != nil {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = u.Scheme
	}
	return recall.Network(net.JoinHostPort(u.Hostname(), port), d.Via())
}

// A candidate is a carrier that has been dialled.
type candidate struct {
	kind Carrier
	conn net.Conn
	took time.Duration
	err  error
}

// choose dials the carriers with head starts, in the order of what is known,
// and returns the first one that works.
func (d *Dialer) choose(ctx context.Context) (net.Conn, Carrier, error) {
	memory, network := d.Chooser.memory, d.network()
	order := memory.Order(network, names(Carriers))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan candidate, len(order)) // none of them waits to be read
	began := 0
	var start *headStart // of the last one that began
	defer func() { start.stop() }()
	next := func() <-chan time.Time {
		start.stop()
		kind := Carrier(order[began])
		began++
		start = newHeadStart(memory.Took(network, string(kind)))
		connected := start.connected
		go func() { results <- d.try(ctx, kind, memory.Trusted(network, string(kind)), connected) }()
		return start.over.C
	}
	var failed []candidate
	timer, ended := next(), ctx.Done()
	for {
		select {
		case <-timer:
			timer = nil
			if began < len(order) {
				timer = next()
			}
			continue
		case r := <-results:
			if r.err == nil {
				cancel()
				go discard(results, began-len(failed)-1) // ctx has ended for them
				for _, kind := range order[:slices.Index(order, string(r.kind))] {
					if !slices.ContainsFunc(failed, func(o candidate) bool { return o.kind == Carrier(kind) }) {
						failed = append(failed, candidate{kind: Carrier(kind), err: errOvertaken})
					}
				}
				d.learn(network, r, failed)
				return r.conn, r.kind, nil
			}
			failed = append(failed, r)
			if conclusive(r.err) {
				go discard(results, began-len(failed))
				return nil, r.kind, r.err
			}
		case <-ended:
			ended, timer = nil, nil // those that have begun say how far they got
			order = order[:began]
			continue
		}
		if began < len(order) {
			timer = next()
		} else if len(failed) == began {
			return nil, "", worst(failed)
		}
	}
}

// errOvertaken is why a carrier is not used that had a head start.
var errOvertaken = errors.New("it did not work in the time that it was given before others")

// discard closes what n attempts still bring.
func discard(results <-chan candidate, n int) {
	for range n {
		if r := <-results; r.err == nil {
			r.conn.Close()
		}
	}
}

// A headStart is the time for which a carrier is tried alone.
type headStart struct {
	over  *time.Timer
	began time.Time
	took  time.Duration // last time; 0 if that is not known
	once  sync.Once
}

func newHeadStart(took time.Duration) *headStart {
	return &headStart{over: time.NewTimer(reachTimeout), began: time.Now(), took: took}
}

// connected says that the server is reached. What it took to get there says what
// the rest may take where everything is slow, as when many agents connect at
// once: that the carrier does not work has to be told from that.
func (h *headStart) connected() {
	h.once.Do(func() {
		least := firstHeadStart
		if h.took > 0 {
			least = max(3*h.took, leastHeadStart)
		}
		h.over.Reset(min(max(least, 4*time.Since(h.began)), mostHeadStart))
	})
}

// stop ends it early, if it has begun.
func (h *headStart) stop() {
	if h == nil {
		return
	}
	h.once.Do(func() {})
	h.over.Stop()
}

// try dials a carrier, and makes sure that it carries if it is not trusted to.
// connected, if not nil, is called when it has reached the server.
func (d *Dialer) try(ctx context.Context, kind Carrier, trusted bool, connected func()) candidate {
	began := time.Now()
	verified := *d
	verified.connected = connected
	if !trusted {
		verified.verify = verifyTimeout
	}
	conn, err := verified.dialKind(ctx, kind)
	return candidate{kind, conn, time.Since(began), err}
}

// conclusive reports whether another carrier would fail in the same way: the
// server was not reached, is somebody else, or does not want this agent.
func conclusive(err error) bool {
	var status *carrier.StatusError
	if errors.As(err, &status) {
		return status.Code != ""
	}
	var dial *carrier.DialError
	if !errors.As(err, &dial) {
		return true // the settings are wrong, or there is no credential
	}
	return dial.Phase == carrier.PhaseDial || dial.Phase == carrier.PhaseTLS
}

// worst returns the error that says most: that of the best carrier.
func worst(failed []candidate) error {
	for _, kind := range Carriers {
		for _, f := range failed {
			if f.kind == kind {
				return f.err
			}
		}
	}
	return nil
}

// learn takes note of what has worked and what has not.
func (d *Dialer) learn(network string, won candidate, failed []candidate) {
	c := d.Chooser
	c.noted(c.memory.Worked(network, string(won.kind), won.took))
	for _, f := range failed {
		c.log.Info("carrier does not work in this network", "carrier", string(f.kind), "instead", string(won.kind), "err", f.err)
		c.noted(c.memory.Failed(network, string(f.kind)))
	}
}

// doubt takes note that the handshake of a session failed on a carrier that was
// chosen; it is to be verified the next time.
func (d *Dialer) doubt(ctx context.Context, kind Carrier, err error) {
	if d.Carrier != Auto || errors.As(err, new(*session.RejectedError)) || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	d.Chooser.noted(d.Chooser.memory.Failed(d.network(), string(kind)))
}

func names(carriers []Carrier) (all []string) {
	for _, c := range carriers {
		all = append(all, string(c))
	}
	return all
}

// A watch follows the carriers of one session whose kind is chosen.
type watch struct {
	session *Session
	since   time.Time // of the present carrier
	network string
	held    bool // it has lasted
	short   []Carrier
	wait    time.Duration // until a better one is looked for
	next    time.Time
}

// began says that the session has a new carrier: those that were lost before it
// so soon were at fault, and not the network.
func (w *watch) began() {
	c := w.session.dialer.Chooser
	w.network = w.session.dialer.network()
	for _, kind := range w.short {
		c.noted(c.memory.Failed(w.network, string(kind)))
	}
	w.short = w.short[:0]
	w.since, w.held = time.Now(), false
	if w.wait == 0 {
		w.wait = c.after
	}
	w.next = w.since.Add(w.wait)
}

// lost says that the carrier is lost.
func (w *watch) lost() {
	if time.Since(w.since) < shortLife {
		w.short = append(w.short, w.session.Carrier())
	}
}

// due returns when to call look.
func (w *watch) due() time.Time {
	at := w.next
	if hold := w.since.Add(longLife); !w.held && hold.Before(at) {
		return hold
	}
	return at
}

// look takes note of a carrier that has lasted, and moves the session to a
// better one if there is one now.
func (w *watch) look(ctx context.Context) {
	s := w.session
	c := s.dialer.Chooser
	if !w.held && time.Since(w.since) >= longLife {
		w.held = true
		c.noted(c.memory.Held(w.network, string(s.Carrier())))
	}
	if time.Now().Before(w.next) {
		return
	}
	w.wait = min(2*w.wait, betterMost)
	w.next = time.Now().Add(w.wait)
	for _, kind := range Carriers {
		if kind == s.Carrier() {
			w.wait = c.after // there is none
			return
		}
		if !c.memory.Avoided(w.network, string(kind)).IsZero() {
			continue
		}
		if w.move(ctx, kind) {
			return
		}
	}
}

// move moves the session to a carrier of that kind, if that works.
func (w *watch) move(ctx context.Context, kind Carrier) bool {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s := w.session
	c := s.dialer.Chooser
	was := s.Carrier()
	r := s.dialer.try(ctx, kind, false, nil)
	if r.err != nil {
		if ctx.Err() == nil && s.s.Attached() {
			c.noted(c.memory.Failed(w.network, string(kind)))
		}
		return false
	}
	c.noted(c.memory.Worked(w.network, string(kind), r.took))
	if err := s.resumeOn(ctx, r.conn, kind); err != nil {
		s.log.Warn("session not moved", "carrier", string(kind), "err", err)
		return false
	}
	s.log.Info("session moved to a better carrier", "carrier", string(kind), "before", string(was))
	w.began()
	return true
}
