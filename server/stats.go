package server

import (
	"errors"
	"sync"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/ingress"
	"adit/route"
	"adit/session"
)

// Results of handshakes and bindings besides the codes of docs/errors.md.
const (
	resultOK         = "ok"
	resultResumed    = "resumed"     // a session got another carrier
	resultTurnedAway = "turned-away" // after the handshake: the server is full, or drains
	resultFailed     = "failed"      // in another way
)

// What there is to be counted. Everything else counts as failed, so that what
// far sides send does not decide how many counters there are.
var (
	handshakeResults = []string{
		resultOK, resultResumed, resultTurnedAway, resultFailed,
		string(auth.MissingCredential), string(auth.InvalidCredential), string(auth.ExpiredCredential), string(auth.RevokedCredential),
		string(auth.NotYetValid), string(auth.Forbidden), string(auth.Busy), string(auth.BadRequest),
	}
	bindResults = []string{
		resultOK, resultFailed,
		string(dialect.BindInvalid), string(dialect.BindForbidden), string(dialect.BindTaken), string(dialect.BindBlocked),
		string(dialect.BindPortInUse), string(dialect.BindNoPort), string(dialect.BindLimit), string(dialect.BindInternal),
	}
	kinds = []string{string(dialect.HTTP), string(dialect.TCP), string(dialect.TLS), string(dialect.UDP), string(dialect.Service)}
)

// A Tally is a number of each pair of words, out of a set that does not grow.
type Tally map[[2]string]uint64

// A tally is a Tally that is being counted.
type tally struct {
	mu sync.Mutex // guards n
	n  Tally
}

func (t *tally) init(first, second []string) {
	t.n = make(Tally, len(first)*len(second))
	for _, a := range first {
		for _, b := range second {
			t.n[[2]string{a, b}] = 0
		}
	}
}

// count counts a pair, if it is one of the set or would be with otherwise for
// its second word.
func (t *tally) count(first, second, otherwise string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := [2]string{first, second}
	if _, ok := t.n[key]; !ok {
		key[1] = otherwise
	}
	if _, ok := t.n[key]; ok {
		t.n[key]++
	}
}

func (t *tally) snapshot() Tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := make(Tally, len(t.n))
	for k, v := range t.n {
		c[k] = v
	}
	return c
}

func handshakeResult(err error) string {
	switch {
	case err == nil:
		return resultOK
	case errors.Is(err, dialect.ErrResumed):
		return resultResumed
	}
	if ae, ok := errors.AsType[*auth.Error](err); ok {
		return string(ae.Code)
	}
	return resultFailed
}

func bindResult(err error) string {
	if err == nil {
		return resultOK
	}
	if be, ok := errors.AsType[*dialect.BindError](err); ok {
		return string(be.Code)
	}
	return resultFailed
}

// Stats is what a server does, and has done so far.
type Stats struct {
	Ready, Draining bool

	HTTP  ingress.HTTPStats
	TCP   ingress.TCPStats
	UDP   ingress.UDPStats
	TLS   ingress.TLSStats // zero without Options.TLS
	Route route.Stats

	Handshakes     Tally // agents' handshakes by dialect and result
	Handshaking    int   // at the moment
	MaxHandshaking int
	Sessions       Tally // by dialect and state
	MaxSessions    int
	Tunnels        Tally // what sessions have bound, by kind; the second word is empty
	Binds          Tally // by kind and result
	MaxTunnels     int   // for each session
	Streams        int
	Native         session.AcceptorStats
	Forwards       ForwardStats

	CertificateEnd time.Time // when the first one from a file expires; zero if there is none

	Reloads, FailedReloads uint64
	ReloadedAt             int64 // when it last went well, in Unix time; 0 if never
}

// Stats returns what the server does and has done.
func (s *Server) Stats() Stats {
	st := Stats{
		Ready:          s.Ready() == nil,
		HTTP:           s.http.Stats(),
		TCP:            s.tcp.Stats(),
		UDP:            s.udp.Stats(),
		Route:          s.table.Stats(),
		Forwards:       s.forwards.stats(),
		Handshakes:     s.handshakesDone.snapshot(),
		MaxHandshaking: maxHandshakes,
		Sessions:       make(Tally),
		MaxSessions:    maxAgents,
		Tunnels:        make(Tally),
		Binds:          s.binds.snapshot(),
		MaxTunnels:     maxBindings,
		Reloads:        s.reloaded.Load(),
		FailedReloads:  s.reloadFailed.Load(),
		ReloadedAt:     s.reloadedAt.Load(),
	}
	if s.tls != nil {
		st.TLS = s.tls.Stats()
	}
	if s.certFiles != nil {
		st.CertificateEnd = s.certFiles.End()
	}
	for _, k := range kinds {
		st.Tunnels[[2]string{k}] = 0
	}
	for _, d := range s.opts.Dialects {
		st.Sessions[[2]string{d.Name(), "available"}] = 0
		st.Sessions[[2]string{d.Name(), "away"}] = 0
		if n, ok := d.(interface{ Stats() session.AcceptorStats }); ok {
			st.Native = n.Stats()
		}
	}
	for _, b := range s.binders() {
		st.Sessions[[2]string{b.dialect, string(b.state())}]++
		st.Streams += b.streams()
		b.mu.Lock()
		for _, n := range b.names {
			st.Tunnels[[2]string{string(n.kind)}]++
		}
		b.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Draining, st.Handshaking = s.draining, s.handshaking
	return st
}
