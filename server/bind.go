package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/ingress"
	"adit/route"
	"adit/tunnel"
)

// A binder is an agent's tunnel with the names that it has bound. It exists as
// long as the tunnel.
type binder struct {
	server *Server
	tunnel tunnel.Tunnel
	log    *slog.Logger

	mu       sync.Mutex // guards the fields below
	identity *auth.Identity
	expiry   *time.Timer // ends the tunnel with its credential; nil if that never ends
	release  map[string]func()
	ended    bool
}

var _ dialect.BindHandler = (*binder)(nil)

// watch takes over the tunnel until it ends.
func (b *binder) watch() {
	b.mu.Lock()
	b.expireLocked()
	b.mu.Unlock()
	if t, ok := b.tunnel.(dialect.Binder); ok {
		t.ServeBinds(b)
	}
	ended := sync.OnceFunc(b.end)
	look := func() {
		select {
		case <-b.tunnel.Done():
			ended()
		default:
		}
	}
	if a, ok := b.tunnel.(tunnel.Availability); ok {
		a.OnAvailability(look)
		look() // it may have ended before
		return
	}
	b.server.watching.Go(func() {
		<-b.tunnel.Done()
		ended()
	})
}

// end gives back what the tunnel had.
func (b *binder) end() {
	b.mu.Lock()
	b.ended = true
	release := b.release
	b.release = nil
	if b.expiry != nil {
		b.expiry.Stop()
	}
	b.mu.Unlock()
	for _, f := range release {
		f()
	}
	b.server.forget(b.tunnel)
	b.log.Info("agent gone", "tunnel", string(b.tunnel.ID()))
}

// expireLocked sees to it that the tunnel ends with its credential.
func (b *binder) expireLocked() {
	if b.expiry != nil {
		b.expiry.Stop()
		b.expiry = nil
	}
	if b.identity.Expires.IsZero() || b.ended {
		return
	}
	b.expiry = time.AfterFunc(time.Until(b.identity.Expires), func() {
		end(b.tunnel, tunnel.EndCredential, "the credential has expired")
	})
}

// Bind implements dialect.BindHandler.
func (b *binder) Bind(ctx context.Context, bd dialect.Binding) (dialect.Bound, error) {
	b.mu.Lock()
	id := b.identity
	b.mu.Unlock()
	if err := b.check(bd, id); err != nil {
		return dialect.Bound{}, err
	}
	bound, release, err := b.bind(bd, id)
	if err != nil {
		b.log.Warn("binding refused", "tunnel", string(bd.ID), "err", err)
		return dialect.Bound{}, err
	}
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		release()
		return dialect.Bound{}, &dialect.BindError{Code: dialect.BindInternal, Reason: "the session has ended"}
	}
	if b.release == nil {
		b.release = make(map[string]func())
	}
	b.release[bd.Key] = release
	b.mu.Unlock()
	b.log.Info("bound", "tunnel", string(bd.ID), "kind", string(bd.Kind), "url", bound.URLs[0])
	return bound, nil
}

// check refuses what is malformed or beyond the identity's scope.
func (b *binder) check(bd dialect.Binding, id *auth.Identity) error {
	invalid := func(format string, args ...any) error {
		return &dialect.BindError{Code: dialect.BindInvalid, Reason: fmt.Sprintf(format, args...)}
	}
	b.mu.Lock()
	n, taken := len(b.release), b.release[bd.Key] != nil
	b.mu.Unlock()
	switch {
	case bd.Key == "" || len(bd.Key) > 64:
		return invalid("key %.70q: it takes 1 to 64 bytes", bd.Key)
	case taken:
		return invalid("key %q is in use in this session: unbind it first", bd.Key)
	case n >= maxBindings:
		return &dialect.BindError{Code: dialect.BindLimit, Reason: fmt.Sprintf("a session has at most %d names", maxBindings)}
	case bd.Kind != dialect.HTTP && bd.Kind != dialect.TCP:
		return invalid("kind %q: http and tcp are allowed", bd.Kind)
	case bd.Kind == dialect.HTTP && bd.Port != 0:
		return invalid("port %d: only tcp has ports", bd.Port)
	case len(bd.Service) > 255:
		return invalid("service has %d bytes: at most 255", len(bd.Service))
	}
	if _, err := tunnel.ParseID(string(bd.ID)); err != nil {
		return invalid("%v", err)
	}
	if !id.Scope.AllowsID(bd.ID) {
		return &dialect.BindError{Code: dialect.BindForbidden, Reason: fmt.Sprintf("the credential does not allow the id %q", bd.ID)}
	}
	if bd.Port != 0 && !id.Scope.AllowsPort(bd.Port) {
		return &dialect.BindError{Code: dialect.BindForbidden, Reason: fmt.Sprintf("the credential does not allow the port %d", bd.Port)}
	}
	return nil
}

// bind makes the tunnel reachable. release takes that back.
func (b *binder) bind(bd dialect.Binding, id *auth.Identity) (bound dialect.Bound, release func(), err error) {
	s := b.server
	e := route.Entry{ID: bd.ID, Service: bd.Service, Tunnel: b.tunnel, Owner: id.Subject}
	if i, ok := b.tunnel.(tunnel.Instancer); ok {
		e.Instance = i.Instance()
	}
	closePort := func() {}
	if bd.Kind == dialect.TCP {
		var addr netip.AddrPort
		if bd.Port != 0 {
			addr, closePort, err = s.tcp.Listen(bd.ID, bd.Port)
		} else {
			addr, closePort, err = s.tcp.ListenAny(bd.ID, id.Scope.AllowsPort)
		}
		if err != nil {
			return dialect.Bound{}, nil, b.portError(bd.Port, err)
		}
		e.Port = addr.Port()
		bound = dialect.Bound{
			URLs: []string{"tcp://" + net.JoinHostPort(s.base.Hostname(), fmt.Sprint(addr.Port()))},
			Port: addr.Port(),
			Addr: addr,
		}
	} else {
		bound.URLs = s.urls(bd.ID)
	}
	remove, err := s.table.Add(e)
	if err != nil {
		closePort()
		var taken *route.TakenError
		if errors.As(err, &taken) {
			return dialect.Bound{}, nil, &dialect.BindError{Code: dialect.BindTaken, Reason: fmt.Sprintf("%q belongs to another credential", bd.ID)}
		}
		return dialect.Bound{}, nil, &dialect.BindError{Code: dialect.BindInternal, Reason: "the name cannot be added now"}
	}
	return bound, func() { remove(); closePort() }, nil
}

func (b *binder) portError(port uint16, err error) error {
	e := &dialect.BindError{Code: dialect.BindInternal, Reason: "the port cannot be opened"}
	switch {
	case errors.Is(err, ingress.ErrPortNotAllowed):
		e.Code, e.Reason = dialect.BindForbidden, fmt.Sprintf("port %d: this server gives out %s", port, b.server.ports())
	case errors.Is(err, ingress.ErrPortInUse):
		e.Code, e.Reason = dialect.BindPortInUse, fmt.Sprintf("port %d is in use", port)
	case errors.Is(err, ingress.ErrNoPort):
		e.Code, e.Reason = dialect.BindNoPort, "no port is free: this server gives out "+b.server.ports()
	default:
		b.log.Error("port not opened", "err", err)
	}
	return e
}

// ports says which public TCP ports there are.
func (s *Server) ports() string {
	if len(s.opts.TCPPorts) == 0 {
		return "no TCP ports"
	}
	var list []string
	for _, r := range s.opts.TCPPorts {
		list = append(list, auth.PortRange(r).String())
	}
	return "the TCP ports " + strings.Join(list, ", ")
}

// urls returns the addresses of an ID, best first.
func (s *Server) urls(id tunnel.ID) []string {
	var urls []string
	if s.opts.Domain != "" {
		u := s.base
		u.Host = string(id) + "." + s.opts.Domain
		if port := s.base.Port(); port != "" {
			u.Host += ":" + port
		}
		urls = append(urls, u.String()+"/")
	}
	if s.opts.PathMode {
		u := s.base
		u.Path = "/" + string(id) + "/"
		urls = append(urls, u.String())
	}
	return urls
}

// Unbind implements dialect.BindHandler.
func (b *binder) Unbind(_ context.Context, key string) error {
	b.mu.Lock()
	release := b.release[key]
	delete(b.release, key)
	b.mu.Unlock()
	if release == nil {
		return &dialect.BindError{Code: dialect.BindInvalid, Reason: fmt.Sprintf("key %.70q is not bound", key)}
	}
	release()
	return nil
}

// Refresh implements dialect.BindHandler.
func (b *binder) Refresh(ctx context.Context, claim auth.Claim) error {
	id, err := b.server.opts.Auth.Authenticate(ctx, claim)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if id.Subject != b.identity.Subject {
		return &auth.Error{Code: auth.Forbidden, Reason: "the credential is somebody else's"}
	}
	b.identity = id
	b.expireLocked()
	return nil
}
