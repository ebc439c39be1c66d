package server

import (
	"crypto/sha256"
	"encoding/json"
	"sync"

	"adit/dialect"
	"adit/policy"
	"adit/tunnel"
)

// policies has the guards of the names that are bound. Agents that bind the
// same ID with the same policy share one, so that a rate is the name's and not
// each agent's. The zero policies is ready to use.
type policies struct {
	mu     sync.Mutex // guards the fields below, and the refs in shared
	shared map[policyKey]*sharedGuard
	asking int // guards that ask visitors for certificates
}

// ask reports whether there is a name whose visitors have to show certificates.
func (p *policies) ask() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asking > 0
}

type policyKey struct {
	id     tunnel.ID
	digest [sha256.Size]byte
}

type sharedGuard struct {
	*policy.Guard
	refs int
}

// guard returns the guard for a binding's policy, which is nil for none. The
// error is a *dialect.BindError. The caller releases it.
func (p *policies) guard(bd dialect.Binding) (g *policy.Guard, release func(), err error) {
	if len(bd.Policy) == 0 {
		return nil, func() {}, nil
	}
	key := policyKey{bd.ID, sha256.Sum256(bd.Policy)}
	rules, err := policy.Parse(bd.Policy)
	if err == nil && bd.Kind != dialect.HTTP {
		err = rules.CheckTCP()
	}
	if err != nil {
		return nil, nil, &dialect.BindError{Code: dialect.BindInvalid, Reason: err.Error()}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shared[key]
	if s == nil {
		made, err := policy.NewGuard(bd.ID, rules)
		if err != nil {
			return nil, nil, &dialect.BindError{Code: dialect.BindInvalid, Reason: err.Error()}
		}
		if p.shared == nil {
			p.shared = make(map[policyKey]*sharedGuard)
		}
		s = &sharedGuard{Guard: made}
		p.shared[key] = s
		if _, asks := made.VisitorCA(); asks {
			p.asking++
		}
	}
	s.refs++
	return s.Guard, sync.OnceFunc(func() { p.release(key, s) }), nil
}

func (p *policies) release(key policyKey, s *sharedGuard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.refs--; s.refs == 0 {
		delete(p.shared, key)
		if _, asks := s.VisitorCA(); asks {
			p.asking--
		}
	}
}

// SetPolicy replaces the policy that all visitors are under, from their next
// request or connection on, beside those of the tunnels that they go to. The
// error says which rule is wrong; nothing has changed then.
func (s *Server) SetPolicy(p policy.Policy) error {
	var g *policy.Guard
	if !p.IsZero() {
		var err error
		if g, err = newServerGuard(p); err != nil {
			return err
		}
	}
	s.guard.Store(g)
	s.http.SetPolicy(g)
	s.tcp.SetPolicy(g)
	s.udp.SetPolicy(g)
	if s.tls != nil {
		s.tls.SetPolicy(g)
	}
	return nil
}

// newServerGuard takes the rules that count for all kinds of visitors, and
// MaxBody and VisitorCA, which others than HTTP visitors do not notice.
func newServerGuard(p policy.Policy) (*policy.Guard, error) {
	conns := p
	conns.MaxBody, conns.VisitorCA = 0, ""
	if err := conns.CheckTCP(); err != nil {
		return nil, &OptionError{"Policy", "policy: " + err.Error()}
	}
	g, err := policy.NewGuard("", p)
	if err != nil {
		return nil, &OptionError{"Policy", "policy: " + err.Error()}
	}
	return g, nil
}

// registrantPolicy returns the policy for the visitors of an ID whose agent
// cannot ask for one. The error is a *dialect.BindError.
func (s *Server) registrantPolicy(id tunnel.ID) (json.RawMessage, error) {
	if s.opts.RegistrantPolicy == nil {
		return nil, nil
	}
	var b []byte
	p, err := s.opts.RegistrantPolicy(id)
	if err == nil && !p.IsZero() {
		b, err = p.Encode()
	}
	if err != nil {
		s.log.Error("no policy for an agent", "id", string(id), "err", err)
		return nil, &dialect.BindError{Code: dialect.BindInternal, Reason: "the rules for visitors cannot be had"}
	}
	return b, nil
}
