package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/tunnel"
)

// allowedBy says which part of the name a scope does not allow.
func (n name) allowedBy(s auth.Scope) error {
	if !s.AllowsID(n.id) {
		return fmt.Errorf("the credential does not allow the id %q", n.id)
	}
	switch {
	case n.port == 0:
	case n.kind == dialect.UDP && !s.AllowsUDPPort(n.port):
		return fmt.Errorf("the credential does not allow the UDP port %d", n.port)
	case n.kind != dialect.UDP && !s.AllowsPort(n.port):
		return fmt.Errorf("the credential does not allow the port %d", n.port)
	}
	for _, h := range n.hostnames {
		if !s.AllowsHostname(h) {
			return fmt.Errorf("the credential does not allow the hostname %q", h)
		}
	}
	return nil
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
		b.server.unlessClosing(func() {
			end(b.tunnel, tunnel.EndCredential, "the credential has expired")
		})
	})
}

// Refresh implements dialect.BindHandler. The new credential must be the same
// holder's, and allow what is bound.
func (b *binder) Refresh(ctx context.Context, claim auth.Claim) error {
	id, err := b.server.opts.Auth.Authenticate(ctx, claim)
	if err != nil {
		return err
	}
	if err := b.take(id, nil); err != nil {
		return err
	}
	b.info("credential refreshed", "credential", string(id.Kind), "token", id.Token, "expires", id.Expires)
	go b.server.unlessClosing(b.recheck) // what changed since it was looked at
	return nil
}

// adopt lets the session live on the credential that its new carrier came with,
// if it is as good as the present one and lasts longer.
func (b *binder) adopt(id *auth.Identity) {
	b.take(id, func(now *auth.Identity) bool {
		return id.Expires.IsZero() || !now.Expires.IsZero() && id.Expires.After(now.Expires)
	})
	b.recheck()
}

// take replaces the session's credential, if better says that it is to be.
func (b *binder) take(id *auth.Identity, better func(now *auth.Identity) bool) error {
	before, err := b.replace(id, better)
	if err == nil {
		b.cutForwards(before)
	}
	return err
}

// replace is take but for what is open. It returns the credential before.
func (b *binder) replace(id *auth.Identity, better func(now *auth.Identity) bool) (before *auth.Identity, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if id.Subject != b.holder {
		return nil, &auth.Error{Code: auth.Forbidden, Reason: "the credential is somebody else's"}
	}
	if err := b.allowedLocked(id); err != nil {
		return nil, &auth.Error{Code: auth.Forbidden, Reason: err.Error() + ", which is bound"}
	}
	before = b.identity
	if better == nil || better(before) {
		b.identity = id
		b.expireLocked()
	}
	return before, nil
}

// allowedLocked says which bound name an identity does not allow.
func (b *binder) allowedLocked(id *auth.Identity) error {
	for _, n := range b.names {
		if err := n.allowedBy(id.Scope); err != nil {
			return err
		}
	}
	return nil
}

// recheckAll looks again at the credentials of all sessions.
func (s *Server) recheckAll() {
	for _, b := range s.binders() {
		b.recheck()
	}
}

// recheck ends the session if its credential is not accepted any more, or no
// longer allows what is bound.
func (b *binder) recheck() {
	if b.foreign {
		return
	}
	for {
		b.mu.Lock()
		id, ended := b.identity, b.ended
		b.mu.Unlock()
		if ended {
			return
		}
		now, err := b.server.opts.Auth.Recheck(id)
		b.mu.Lock()
		if b.identity != id { // it was replaced meanwhile
			b.mu.Unlock()
			continue
		}
		if err == nil {
			err = b.allowedLocked(now)
		}
		if err == nil {
			b.identity = now
			b.expireLocked()
		}
		b.mu.Unlock()
		if err != nil {
			b.withdraw(err)
			return
		}
		b.cutForwards(id)
		return
	}
}

// withdraw ends the session for want of a credential.
func (b *binder) withdraw(err error) {
	reason := err.Error()
	if ae, ok := errors.AsType[*auth.Error](err); ok {
		reason = ae.Reason
	}
	b.info("credential withdrawn", "subject", b.holder, "err", err)
	go b.server.unlessClosing(func() { end(b.tunnel, tunnel.EndCredential, reason) })
}
