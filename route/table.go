// Package route finds the tunnel for what a visitor asked for. A Table maps
// hostnames, paths and ports to the tunnels that agents have bound them with;
// it spreads visitors over several tunnels of one name, passes over those that
// are away, and lets a visitor wait for an agent that reconnects.
//
//	table := route.NewTable(route.Options{Domain: "example.com"})
//	defer table.Close()
//	remove, err := table.Add(route.Entry{ID: "web", Tunnel: t})
//	...
//	e, err := table.Route(ctx, "web.example.com")
package route

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"adit/policy"
	"adit/tunnel"
)

const (
	defaultHold           = 30 * time.Second
	defaultMaxHeld        = 1024
	defaultMaxHeldPerName = 256
	maxSeen               = 1 << 16 // names without a tunnel that are remembered
)

// Options configures a Table. The zero value is ready to use.
type Options struct {
	// Domain is the domain under which each ID has a hostname, in lower case
	// and without trailing dot. If empty, there are only paths, ports and the
	// hostnames that entries name.
	Domain string

	// Hold is how long a visitor waits for an agent that is away, and how long
	// a name without tunnels is remembered and kept for its owner; 0 means
	// 30 s, negative means not at all.
	Hold time.Duration

	// Warmup is how long after NewTable a name that was never seen is waited
	// for as if it had been: agents that were connected before the server was
	// started again are about to bind. It counts for IDs that tunnel.ParseID
	// accepts and for ports. 0 means not at all.
	Warmup time.Duration

	// WarmHostnames lets the warm-up count for hostnames of entries too. It is
	// not for servers that are reached by hostnames of which they don't know.
	WarmHostnames bool

	// MaxHeld is how many visitors may wait in all, MaxHeldPerName how many
	// at one name; 0 means 1024 and 256.
	MaxHeld, MaxHeldPerName int

	// Logger receives the table's events. If nil, nothing is logged.
	Logger *slog.Logger
}

// An Entry makes a tunnel reachable. With a Port it is reachable there alone, and
// with a Name as "@<id>/<name>" alone; without, at the hostname and path of its ID and at Hostnames.
type Entry struct {
	ID      tunnel.ID
	Service string // which of the tunnel's upstreams it is
	Tunnel  tunnel.Tunnel

	// Owner is the subject of the credential that binds. While a name has a
	// tunnel, and for Options.Hold afterwards, nobody else may bind it.
	Owner string

	// Instance tells the agents of one owner apart. An entry with the ID,
	// owner and instance of an earlier one, if not empty, replaces the tunnel
	// of that one: it is the same agent that came back.
	Instance string

	// Run and Number are those of tunnel.Parallel: an entry replaces none of
	// its own run and instance but the one with its number. Visitors are spread
	// over the runs, and over the entries of one by their load.
	Run    string
	Number int

	Hostnames []string // in lower case, without port or trailing dot; not below Options.Domain
	Port      uint16   // public TCP or UDP port, or 0
	UDP       bool     // Port is one of UDP
	Name      string   // of a service without visitors, or empty

	// TLS says that visitors speak TLS with the upstream itself. A name stands
	// either for such upstreams or for others.
	TLS bool

	HTTP2      bool // the upstream speaks HTTP/2 from the first byte
	PerVisitor bool // no stream may carry the requests of two visitors

	// Policy decides which visitors may enter here; nil lets everybody. The
	// table hands it out with the tunnel that it goes with.
	Policy *policy.Guard
}

// PortKey returns what Route takes for a public port: ":2222" of TCP, and
// ":2222/udp" of UDP. The two have nothing to do with one another.
func PortKey(port uint16, udp bool) string {
	key := ":" + strconv.Itoa(int(port))
	if udp {
		key += udpSuffix
	}
	return key
}

const udpSuffix = "/udp"

// isHTTP reports whether visitors find the entry at the hostname of its ID.
func (b Entry) isHTTP() bool { return b.Port == 0 && b.Name == "" }

// A TakenError says that a name belongs to somebody else.
type TakenError struct {
	Key string // as Route takes it
}

func (e *TakenError) Error() string { return fmt.Sprintf("%q is taken", e.Key) }

// A KindError says that a name stands for tunnels of another kind: their
// upstreams end TLS, or they don't.
type KindError struct {
	Key string // as Route takes it
	TLS bool   // what the name stands for
}

func (e *KindError) Error() string {
	if e.TLS {
		return fmt.Sprintf("%q stands for tunnels whose upstreams end TLS", e.Key)
	}
	return fmt.Sprintf("%q stands for tunnels whose upstreams do not end TLS", e.Key)
}

// A Table maps names to tunnels. Its methods are safe for concurrent use.
type Table struct {
	opts    Options        // constant after NewTable
	suffix  string         // "." + opts.Domain; empty without one
	warm    time.Time      // when the warm-up is over; constant too
	closing chan struct{}  // closed by Close
	running sync.WaitGroup // followers, and closers of replaced tunnels

	mu      sync.Mutex // guards the fields below, and all slots, entries and watches
	closed  bool
	drained bool             // nobody waits any more
	byID    map[string]*slot // for hostnames below the domain and paths
	byKey   map[string]*slot // for other hostnames, and what PortKey returns
	watched map[tunnel.Tunnel]*watch
	blocked map[string]bool // IDs and hostnames, in lower case; nil if there are none
	held    int             // visitors that wait
	waited  uint64          // visitors that began to wait
	full    uint64          // and that could not, because too many did
	seen    []*slot         // that may be forgotten, oldest first
	sweeper *time.Timer

	givenUp    uint64                // times that a silent tunnel was
	rules      map[string]*slot      // by their names
	ledBy      map[tunnel.ID][]*slot // rules by their members
	candidates []candidate           // scratch of pickMemberLocked
}

// An entry is an Entry in the table.
type entry struct {
	Entry
	watch   *watch
	id      *slot   // the slot of its ID, which it holds for its owner
	serves  []*slot // the slots at which visitors find it
	removed bool
}

// NewTable returns an empty table. Close it.
func NewTable(opts Options) *Table {
	if opts.Hold == 0 {
		opts.Hold = defaultHold
	}
	opts.Hold = max(opts.Hold, 0)
	if opts.MaxHeld <= 0 {
		opts.MaxHeld = defaultMaxHeld
	}
	if opts.MaxHeldPerName <= 0 {
		opts.MaxHeldPerName = defaultMaxHeldPerName
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Table{
		opts:    opts,
		warm:    time.Now().Add(opts.Warmup),
		closing: make(chan struct{}),
		byID:    make(map[string]*slot),
		byKey:   make(map[string]*slot),
		watched: make(map[tunnel.Tunnel]*watch),
	}
	if opts.Domain != "" {
		t.suffix = "." + opts.Domain
	}
	return t
}

// Close empties the table and waits for its goroutines. All waits end with
// ErrOffline, and so does each call of Route from then on. It does not close
// tunnels.
func (t *Table) Close() error {
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		close(t.closing)
		if t.sweeper != nil {
			t.sweeper.Stop()
		}
		clear(t.byID)
		clear(t.byKey)
		clear(t.watched)
		t.seen = nil
		for _, s := range t.rules {
			s.plan.stopLocked()
		}
		clear(t.rules)
		clear(t.ledBy)
	}
	t.mu.Unlock()
	t.running.Wait()
	return nil
}

// Drain ends all waits with ErrOffline, and lets none begin: no agent is coming
// any more. Tunnels that are here and available are still found.
func (t *Table) Drain() {
	t.mu.Lock()
	t.drained = true
	var woken []*waiter
	for _, m := range []map[string]*slot{t.byID, t.byKey, t.rules} {
		for _, s := range m {
			woken = append(woken, t.turnAwayLocked(s, tunnel.ErrOffline)...)
		}
	}
	t.mu.Unlock()
	signal(woken)
}

// Add makes b reachable until remove is called or its tunnel ends. The error
// is a *TakenError if somebody else has one of the names, a *BlockedError if
// the operator has blocked one, a *KindError if one stands for another kind of
// tunnel, it wraps tunnel.ErrClosed if the tunnel or the table has ended, and
// otherwise it says
// which field of b is wrong; nothing has changed then.
//
// The table registers with the tunnel's OnAvailability, if it has one.
func (t *Table) Add(b Entry) (remove func(), err error) {
	if err := t.check(b); err != nil {
		return nil, fmt.Errorf("route: add %q: %w", b.ID, err)
	}
	available := isAvailable(b.Tunnel)

	t.mu.Lock()
	known := t.watched[b.Tunnel] != nil
	replaced, e, err := t.addLocked(b, available)
	var woken []*waiter
	if err == nil {
		woken = t.wakeLocked(t.servedByLocked(e))
	}
	t.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("route: add %q: %w", b.ID, err)
	}
	signal(woken)
	if a, ok := b.Tunnel.(tunnel.Availability); ok && !known {
		w := e.watch
		a.OnAvailability(func() { t.look(a, w) })
		t.look(a, w) // it may have changed before
	}
	for _, old := range replaced {
		t.opts.Logger.Info("tunnel replaced by a newer one of the same agent", "tunnel", string(b.ID))
		go func() {
			defer t.running.Done()
			supersede(old)
		}()
	}
	return func() { t.remove(e) }, nil
}

// supersede closes a tunnel that was replaced. Its agent should not come back
// for that: it is there already.
func supersede(old tunnel.Tunnel) {
	if e, ok := old.(tunnel.Ender); ok {
		e.End(tunnel.EndSuperseded, "the same agent has a newer session")
		return
	}
	old.Close()
}

// check looks at what can be told without the table's contents.
func (t *Table) check(b Entry) error {
	switch {
	case b.ID == "":
		return errors.New("id is empty")
	case b.Tunnel == nil:
		return errors.New("tunnel is nil")
	case b.Port != 0 && len(b.Hostnames) > 0:
		return fmt.Errorf("port %d and hostnames: an entry has one or the other", b.Port)
	case b.Name != "" && (b.Port != 0 || len(b.Hostnames) > 0 || b.TLS):
		return fmt.Errorf("service %q: an entry has a name or a place for visitors", b.Name)
	case b.Port != 0 && b.TLS:
		return fmt.Errorf("port %d and TLS: an entry has one or the other", b.Port)
	case b.UDP && b.Port == 0:
		return errors.New("UDP without a port")
	}
	for _, h := range b.Hostnames {
		switch {
		case h == "" || h != strings.ToLower(h) || strings.HasSuffix(h, ".") || strings.ContainsAny(h, "/:"):
			return fmt.Errorf("hostname %q: want it in lower case, without port or trailing dot", h)
		case t.suffix != "" && (h == t.opts.Domain || strings.HasSuffix(h, t.suffix)):
			return fmt.Errorf("hostname %q: those of the domain %s go with ids", h, t.opts.Domain)
		}
	}
	return nil
}

func (t *Table) addLocked(b Entry, available bool) (replaced []tunnel.Tunnel, e *entry, err error) {
	if t.closed {
		return nil, nil, tunnel.ErrClosed
	}
	select {
	case <-b.Tunnel.Done():
		return nil, nil, tunnel.ErrClosed
	default:
	}

	now := time.Now()
	var keys []string // in byKey
	if b.Name != "" {
		keys = []string{"@" + string(b.ID) + "/" + b.Name}
	} else if b.Port != 0 {
		keys = []string{PortKey(b.Port, b.UDP)}
	} else {
		keys = slices.Compact(slices.Sorted(slices.Values(b.Hostnames)))
	}
	if t.blocksLocked(string(b.ID)) {
		return nil, nil, &BlockedError{string(b.ID)}
	}
	if s := t.byID[string(b.ID)]; s != nil && !s.openToLocked(b, now) {
		return nil, nil, &TakenError{"/" + string(b.ID)}
	}
	for _, k := range keys {
		if t.blocksLocked(k) {
			return nil, nil, &BlockedError{k}
		}
		if s := t.byKey[k]; s != nil && !s.openToLocked(b, now) {
			return nil, nil, &TakenError{k}
		}
	}
	if s := t.byID[string(b.ID)]; b.isHTTP() && s.otherKindLocked(b) {
		return nil, nil, &KindError{"/" + string(b.ID), s.tls}
	}
	for _, k := range keys {
		if s := t.byKey[k]; s.otherKindLocked(b) {
			return nil, nil, &KindError{k, s.tls}
		}
	}

	e = &entry{Entry: b, watch: t.watchLocked(b.Tunnel, available)}
	e.id = t.slotLocked(t.byID, string(b.ID), "/"+string(b.ID))
	e.id.takeLocked(e)
	if b.isHTTP() {
		e.serves = append(e.serves, e.id)
	}
	for _, k := range keys {
		s := t.slotLocked(t.byKey, k, k)
		s.takeLocked(e)
		e.serves = append(e.serves, s)
	}
	for _, s := range e.serves {
		s.enterLocked(e)
		s.tls = e.TLS
	}
	e.watch.entries = append(e.watch.entries, e)
	replaced = t.replaceLocked(e)
	for _, s := range t.ledBy[e.ID] {
		t.checkLocked(s)
	}
	return replaced, e, nil
}

// replaces reports whether b is the same agent as old, which came back.
func (b Entry) replaces(old *entry) bool {
	return b.Instance != "" && b.Instance == old.Instance && b.Owner == old.Owner && !b.beside(old)
}

// beside reports whether the tunnels of b and o are of one process, at the same
// time.
func (b Entry) beside(o *entry) bool {
	return b.Run != "" && b.Run == o.Run && b.Instance == o.Instance && b.Number != o.Number
}

// replaceLocked removes the tunnels that e replaces and returns them. The
// caller closes each, and then calls t.running.Done.
func (t *Table) replaceLocked(e *entry) (replaced []tunnel.Tunnel) {
	if e.Instance == "" {
		return nil
	}
	for _, old := range slices.Clone(e.id.holders) {
		if old.Tunnel == e.Tunnel || old.removed || !e.replaces(old) {
			continue
		}
		for _, o := range slices.Clone(old.watch.entries) {
			t.removeLocked(o)
		}
		replaced = append(replaced, old.Tunnel)
		t.running.Add(1)
	}
	return replaced
}

func (t *Table) remove(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(e)
}

func (t *Table) removeLocked(e *entry) {
	if e.removed || t.closed {
		return
	}
	e.removed = true
	e.watch.entries = without(e.watch.entries, e)
	until := time.Now().Add(t.opts.Hold)
	for _, s := range e.serves {
		s.leaveLocked(e)
		if len(s.entries) == 0 {
			s.servedUntil = until
		}
		if s != e.id {
			t.releaseLocked(s, e, until)
		}
	}
	t.releaseLocked(e.id, e, until)
	for _, s := range t.ledBy[e.ID] {
		t.checkLocked(s)
	}
}

// servedByLocked returns the slots whose visitors may be led to e.
func (t *Table) servedByLocked(e *entry) []*slot {
	return append(e.serves[:len(e.serves):len(e.serves)], t.ledBy[e.ID]...)
}

// without removes e from list, keeping the order.
func without(list []*entry, e *entry) []*entry {
	if i := slices.Index(list, e); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	return list
}
