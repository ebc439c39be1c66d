package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/route"
	"adit/tunnel"
)

// A binder is an agent's tunnel with the names that it has bound. It exists as
// long as the tunnel.
type binder struct {
	server  *Server
	session string // its ID
	tunnel  tunnel.Tunnel
	dialect string
	remote  string // the agent's address
	host    string // by which it reached the server
	secure  bool   // and whether that was with TLS
	began   time.Time
	holder  string // subject of all its credentials
	foreign bool   // the dialect judges them: the server's authenticator does not know them

	forwards   sync.WaitGroup // streams that the agent has opened, and what takes them
	forwarding int            // how many of them count; server.forwards guards it

	mu       sync.Mutex // guards the fields below
	identity *auth.Identity
	expiry   *time.Timer // ends the tunnel with its credential; nil if that never ends
	names    []name      // few, as a rule: a map would take more memory
	open     map[*openForward]struct{}
	ended    bool
}

// A name is what was bound under a key.
type name struct {
	key       string
	id        tunnel.ID
	kind      dialect.Kind
	service   string
	urls      []string
	since     time.Time
	hostnames []string
	port      uint16 // public port of TCP or UDP, or 0
	release   func()
}

var _ dialect.BindHandler = (*binder)(nil)

func (b *binder) info(msg string, args ...any) {
	b.server.log.Info(msg, append([]any{"session", b.session, "tunnel", string(b.tunnel.ID()), "dialect", b.dialect, "remote", b.remote}, args...)...)
}

// watch takes over the tunnel until it ends. The caller has added it to the
// server.
func (b *binder) watch() {
	if f, ok := b.tunnel.(dialect.Forwarder); ok && b.server.mayForward() {
		b.forwards.Go(func() { b.forward(f) })
	}
	b.mu.Lock()
	b.expireLocked()
	b.mu.Unlock()
	if a, ok := b.tunnel.(tunnel.Availability); ok {
		a.OnAvailability(b.look)
		b.look() // it may have ended before
	} else {
		go func() { // the server's agents wait for it
			<-b.tunnel.Done()
			b.look()
		}()
	}
	if t, ok := b.tunnel.(dialect.Binder); ok {
		t.ServeBinds(b)
	}
}

// look sees whether the tunnel has ended. It does not block.
func (b *binder) look() {
	select {
	case <-b.tunnel.Done():
	default:
		return
	}
	b.mu.Lock()
	first := !b.ended
	b.ended = true
	names := b.names
	b.names = nil
	if b.expiry != nil {
		b.expiry.Stop()
	}
	b.mu.Unlock()
	if first {
		go b.end(names) // closing ports takes time; the server's agents wait for it
	}
}

// end gives back what the tunnel had.
func (b *binder) end(names []name) {
	for _, n := range names {
		n.release()
	}
	b.forwards.Wait()
	var why error
	if t, ok := b.tunnel.(interface{ Err() error }); ok {
		why = t.Err()
	}
	b.server.remove(b.tunnel) // before anybody reads that it is gone
	b.info("agent gone", "dur", time.Since(b.began).Round(time.Millisecond), "err", why)
	b.server.agents.Done()
}

// register binds the one name of a tunnel that has no other, and tells its
// agent.
func (b *binder) register() {
	t, ok := b.tunnel.(dialect.Registrant)
	if !ok {
		return
	}
	bd := dialect.Binding{Key: "id", Kind: dialect.HTTP, ID: b.tunnel.ID()}
	var bound dialect.Bound
	var err error
	if bd.Policy, err = b.server.registrantPolicy(bd.ID); err == nil {
		bound, err = b.try(bd, b.checkRegistered)
	}
	t.Registered(bound, err)
	if err != nil {
		go b.server.unlessClosing(func() { b.tunnel.Close() })
	}
}

// checkRegistered is check for the ID of a dialect with rules of its own for
// what is one.
func (b *binder) checkRegistered(bd dialect.Binding, id *auth.Identity) error {
	if _, err := tunnel.ParseID(string(bd.ID)); err != nil && !b.server.opts.PathMode {
		return &dialect.BindError{Code: dialect.BindInvalid, Reason: fmt.Sprintf("visitors find ids by hostname alone here: %v", err)}
	}
	if err := b.checkService(bd); err != nil {
		return err
	}
	return b.checkScope(bd, id)
}

// checkService refuses what only a service has, or what it has not.
func (b *binder) checkService(bd dialect.Binding) error {
	invalid := func(format string, args ...any) error {
		return &dialect.BindError{Code: dialect.BindInvalid, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case bd.Kind != dialect.Service && bd.Name != "":
		return invalid("name %.70q: only a service has one", bd.Name)
	case bd.Kind != dialect.Service:
		return nil
	case bd.Port != 0 || len(bd.Hostnames) > 0 || len(bd.Policy) > 0 || bd.PerVisitor:
		return invalid("service %.70q has no visitors: it takes neither a port nor hostnames nor rules for them", bd.Name)
	case len(b.server.forwards.allowed()) == 0:
		return &dialect.BindError{Code: dialect.BindForbidden, Reason: "this server does not forward, so that nobody would reach the service"}
	}
	if err := tunnel.CheckService(bd.Name); err != nil {
		return invalid("%v", err)
	}
	return nil
}

// Bind implements dialect.BindHandler.
func (b *binder) Bind(_ context.Context, bd dialect.Binding) (dialect.Bound, error) {
	return b.try(bd, b.check)
}

// try binds what check has no objection to.
func (b *binder) try(bd dialect.Binding, check func(dialect.Binding, *auth.Identity) error) (dialect.Bound, error) {
	b.mu.Lock()
	id := b.identity
	b.mu.Unlock()
	bound, release, err := dialect.Bound{}, func() {}, check(bd, id)
	if err == nil {
		bound, release, err = b.bind(bd, id)
	}
	b.server.binds.count(string(bd.Kind), bindResult(err), resultFailed)
	if err != nil {
		b.server.log.Warn("binding refused", "tunnel", string(bd.ID), "remote", b.remote, "err", err)
		return dialect.Bound{}, err
	}
	n := name{
		key:       bd.Key,
		id:        bd.ID,
		kind:      bd.Kind,
		service:   bd.Service,
		urls:      bound.URLs,
		since:     time.Now(),
		hostnames: bd.Hostnames,
		port:      bound.Port,
		release:   release,
	}
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		release()
		return dialect.Bound{}, &dialect.BindError{Code: dialect.BindInternal, Reason: "the session has ended"}
	}
	err = n.allowedBy(b.identity.Scope) // it may have changed meanwhile, as may the ports
	if err == nil {
		err = b.server.givesOut(n)
	}
	if err != nil {
		b.mu.Unlock()
		release()
		return dialect.Bound{}, &dialect.BindError{Code: dialect.BindForbidden, Reason: err.Error()}
	}
	b.names = append(b.names, n)
	b.mu.Unlock()
	b.info("bound", "id", string(bd.ID), "kind", string(bd.Kind), "url", bound.URLs[0])
	return bound, nil
}

// check refuses what is malformed or beyond the identity's scope.
func (b *binder) check(bd dialect.Binding, id *auth.Identity) error {
	invalid := func(format string, args ...any) error {
		return &dialect.BindError{Code: dialect.BindInvalid, Reason: fmt.Sprintf(format, args...)}
	}
	b.mu.Lock()
	n, taken := len(b.names), b.findLocked(bd.Key) >= 0
	b.mu.Unlock()
	switch {
	case bd.Key == "" || len(bd.Key) > 64:
		return invalid("key %.70q: it takes 1 to 64 bytes", bd.Key)
	case taken:
		return invalid("key %q is in use in this session: unbind it first", bd.Key)
	case n >= maxBindings:
		return &dialect.BindError{Code: dialect.BindLimit, Reason: fmt.Sprintf("a session has at most %d names", maxBindings)}
	case !slices.Contains(kinds, string(bd.Kind)):
		return invalid("kind %q: http, tcp, tls, udp and service are allowed", bd.Kind)
	case bd.Kind == dialect.TLS && b.server.tls == nil:
		return invalid("kind tls: %v", errNoTLS)
	case !hasPort(bd.Kind) && bd.Port != 0:
		return invalid("port %d: only tcp and udp have ports", bd.Port)
	case !hasPort(bd.Kind) && bd.Addr.IsValid():
		return invalid("address %v: only tcp and udp have ports to bind on one", bd.Addr)
	case hasPort(bd.Kind) && len(bd.Hostnames) > 0:
		return invalid("hostname %.80q: %s has a port and no hostnames", bd.Hostnames[0], bd.Kind)
	case bd.HTTP2 && bd.Kind != dialect.HTTP:
		return invalid("HTTP/2 upstream for %s: only http has one", bd.Kind)
	case len(bd.Service) > 255:
		return invalid("service has %d bytes: at most 255", len(bd.Service))
	}
	if _, err := tunnel.ParseID(string(bd.ID)); err != nil {
		return invalid("%v", err)
	}
	for _, h := range bd.Hostnames {
		if err := b.server.checkHostname(h); err != nil {
			return invalid("%v", err)
		}
	}
	return b.checkScope(bd, id)
}

// checkScope refuses what the identity may not bind.
func (b *binder) checkScope(bd dialect.Binding, id *auth.Identity) error {
	if !b.server.opts.ReservedIDs.Allows(bd.ID, id.Scope) {
		return &dialect.BindError{Code: dialect.BindForbidden, Reason: fmt.Sprintf("the id %q is reserved, or looks like one that is: it takes a credential that names it", bd.ID)}
	}
	if err := (name{id: bd.ID, kind: bd.Kind, hostnames: bd.Hostnames, port: bd.Port}).allowedBy(id.Scope); err != nil {
		return &dialect.BindError{Code: dialect.BindForbidden, Reason: err.Error()}
	}
	return nil
}

// bind makes the tunnel reachable. release takes that back.
func (b *binder) bind(bd dialect.Binding, id *auth.Identity) (bound dialect.Bound, release func(), err error) {
	s := b.server
	e := route.Entry{ID: bd.ID, Service: bd.Service, Tunnel: b.tunnel, Owner: id.Subject, Hostnames: bd.Hostnames, HTTP2: bd.HTTP2, PerVisitor: bd.PerVisitor}
	if i, ok := b.tunnel.(tunnel.Instancer); ok {
		e.Instance = i.Instance()
	}
	if p, ok := b.tunnel.(tunnel.Parallel); ok {
		e.Run, e.Number = p.Parallel()
	}
	guard, releaseGuard, err := s.policies.guard(bd)
	if err != nil {
		return dialect.Bound{}, nil, err
	}
	e.Policy = guard
	undo := releaseGuard
	switch bd.Kind {
	case dialect.TLS:
		e.TLS = true
		bound.URLs = s.tlsURLs(bd.ID, bd.Hostnames)
	case dialect.Service:
		e.Name = bd.Name
		bound.URLs = []string{tunnel.Target{Network: tunnel.Agent, Host: string(bd.ID), Service: bd.Name}.String()}
	case dialect.TCP, dialect.UDP:
		addr, stop, err := b.listen(bd, id)
		if err != nil {
			releaseGuard()
			return dialect.Bound{}, nil, b.portError(bd, err)
		}
		undo = func() { stop(); releaseGuard() }
		e.Port, e.UDP = addr.Port(), bd.Kind == dialect.UDP
		bound = dialect.Bound{URLs: []string{b.portURL(bd, addr)}, Port: e.Port, Addr: addr}
	default:
		for _, h := range bd.Hostnames {
			if s.lacksCertificate(h) {
				s.log.Warn("no certificate is for a hostname: visitors with TLS are refused", "host", h, "id", string(bd.ID))
			}
		}
		bound.URLs = s.urlsFor(bd.ID, bd.Hostnames, s.baseFor(b.host, b.secure))
	}
	bound.Policy = guard != nil
	remove, err := s.table.Add(e)
	if err != nil {
		undo()
		var taken *route.TakenError
		var kind *route.KindError
		if errors.As(err, &kind) {
			return dialect.Bound{}, nil, &dialect.BindError{Code: dialect.BindTaken, Reason: kindReason(kind)}
		}
		if errors.As(err, &taken) {
			return dialect.Bound{}, nil, &dialect.BindError{Code: dialect.BindTaken, Reason: fmt.Sprintf("%q belongs to another credential", strings.TrimPrefix(taken.Key, "/"))}
		}
		if blocked, ok := errors.AsType[*route.BlockedError](err); ok {
			return dialect.Bound{}, nil, &dialect.BindError{Code: dialect.BindBlocked, Reason: fmt.Sprintf("the operator of the server has blocked %q", blocked.Name)}
		}
		return dialect.Bound{}, nil, &dialect.BindError{Code: dialect.BindInternal, Reason: "the name cannot be added now"}
	}
	return bound, func() { remove(); undo() }, nil
}

// kindReason says why a name cannot be bound as another kind.
func kindReason(e *route.KindError) string {
	is, other := dialect.HTTP, dialect.TLS
	if e.TLS {
		is, other = other, is
	}
	return fmt.Sprintf("%q is bound as %s: it cannot be %s too", strings.TrimPrefix(e.Key, "/"), is, other)
}

// findLocked returns the index of the name with that key, or -1.
func (b *binder) findLocked(key string) int {
	return slices.IndexFunc(b.names, func(n name) bool { return n.key == key })
}

// Unbind implements dialect.BindHandler.
func (b *binder) Unbind(_ context.Context, key string) error {
	b.mu.Lock()
	var n name
	i := b.findLocked(key)
	if i >= 0 {
		n = b.names[i]
		b.names = slices.Delete(b.names, i, i+1)
	}
	b.mu.Unlock()
	if i < 0 {
		return &dialect.BindError{Code: dialect.BindInvalid, Reason: fmt.Sprintf("key %.70q is not bound", key)}
	}
	n.release()
	b.info("unbound", "id", string(n.id))
	return nil
}
