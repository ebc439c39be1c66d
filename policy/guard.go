package policy

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"time"

	"adit/tunnel"
)

// A Code says why a visitor may not enter. It is one of docs/errors.md and stays
// as it is.
type Code string

const (
	CodeAddress       Code = "address-not-allowed"   // its address is not one that may
	CodeRate          Code = "rate-limited"          // it, or all visitors together, come too often
	CodeCertificate   Code = "certificate-required"  // it showed no certificate, or one that does not count
	CodeLogin         Code = "login-required"        // it gave no user and password, or wrong ones
	CodeViewer        Code = "viewer-token-required" // it has no viewer token, or none for this tunnel
	CodeViewerExpired Code = "viewer-token-expired"  // it had one
	CodeBody          Code = "body-too-large"        // the request's body is longer than allowed
)

// A Denied is why a visitor may not enter.
type Denied struct {
	Code       Code
	RetryAfter time.Duration // when it may try again; 0 if that does not depend on the time
	Challenge  string        // for WWW-Authenticate; empty if it is of no use

	reason string // for logs; holds no secret
}

func (e *Denied) Error() string {
	if e.reason == "" {
		return "policy: " + string(e.Code)
	}
	return "policy: " + string(e.Code) + ": " + e.reason
}

// TooLarge is why a body that has turned out too long is not passed on.
func TooLarge(limit int64) *Denied {
	return &Denied{Code: CodeBody, reason: fmt.Sprintf("more than %d bytes", limit)}
}

// A Request is what a Guard looks at of an HTTP request.
type Request struct {
	Visitor netip.Addr // zero if it is not known
	Method  string
	Target  string // in origin-form, as the visitor sent it
	Path    string // below which the tunnel is: "/", or in path mode "/<id>/"
	Secure  bool   // the visitor speaks TLS
	Length  int64  // of the body, as far as it is known; 0 otherwise

	// Values returns the values of all header fields of a name, as sent.
	Values func(name string) []string

	// Certificates returns what the visitor has shown in its TLS handshake,
	// leaf first, verified or not. Nil is no certificate.
	Certificates func() []*x509.Certificate
}

// A Pass is what goes with a request that was let in. The zero Pass changes
// nothing.
type Pass struct {
	// Redirect, if not nil, is the answer: the visitor comes back without the
	// secret in its address.
	Redirect *Redirect

	DropAuthorization bool  // Authorization was for adit, and is not passed on
	DropCookies       bool  // StripCookies is to be applied
	AgentErrors       bool  // as in Policy
	MaxBody           int64 // bytes; 0 means any number
}

// Same reports whether the request would be passed on in the same form.
func (p Pass) Same(q Pass) bool {
	return p.DropAuthorization == q.DropAuthorization && p.DropCookies == q.DropCookies
}

// And returns what goes with a request that two guards have let in.
func (p Pass) And(q Pass) Pass {
	if p.Redirect == nil {
		p.Redirect = q.Redirect
	}
	p.DropAuthorization = p.DropAuthorization || q.DropAuthorization
	p.DropCookies = p.DropCookies || q.DropCookies
	p.AgentErrors = p.AgentErrors || q.AgentErrors
	if p.MaxBody == 0 || q.MaxBody != 0 && q.MaxBody < p.MaxBody {
		p.MaxBody = q.MaxBody
	}
	return p
}

// A Redirect sends a visitor to the same host.
type Redirect struct {
	Location string
	Cookie   string // for Set-Cookie; empty for none
}

// A Guard enforces the policy of one name. Its methods are safe for concurrent
// use, and remember visitors only as far as the rules need it.
type Guard struct {
	id           tunnel.ID
	allow, deny  *prefixSet
	visitors     *limiter
	total        *limiter
	certificates *certificates
	logins       *logins
	viewers      *viewers
	pass         Pass
	authorities  string
}

// NewGuard returns a guard for the policy of the name id, which for the policy
// of a server is empty. The error is that of CheckHTTP.
func NewGuard(id tunnel.ID, p Policy) (*Guard, error) {
	if err := p.CheckHTTP(); err != nil {
		return nil, err
	}
	realm := string(id)
	if realm == "" {
		realm = "adit"
	}
	g := &Guard{
		id:           id,
		allow:        newPrefixSet(p.AllowIP),
		deny:         newPrefixSet(p.DenyIP),
		visitors:     newLimiter(p.Rate),
		total:        newLimiter(p.TotalRate),
		certificates: newCertificates(p.VisitorCA),
		logins:       newLogins(p.BasicAuth, realm),
		viewers:      newViewers(p.ViewerKeys, id),
		authorities:  p.VisitorCA,
	}
	g.pass = Pass{
		DropAuthorization: p.BasicAuth != nil && !p.PassAuthorization,
		DropCookies:       g.viewers != nil,
		AgentErrors:       p.AgentErrors,
		MaxBody:           p.MaxBody,
	}
	return g, nil
}

// VisitorCA returns the authorities, in PEM, of which visitors must show a
// certificate, and so whether a TLS server has to ask for one.
func (g *Guard) VisitorCA() (pem string, required bool) {
	return g.authorities, g.certificates != nil
}

// AdmitConn decides on a connection that is passed on unread. The error is a
// *Denied.
func (g *Guard) AdmitConn(visitor netip.Addr) error {
	visitor = plain(visitor)
	if err := g.admitAddress(visitor); err != nil {
		return err
	}
	return g.admitRate(visitor)
}

// Admit decides on a request. ctx bounds the wait for the check of a password.
// The error is a *Denied.
func (g *Guard) Admit(ctx context.Context, r *Request) (Pass, error) {
	if err := g.AdmitConn(r.Visitor); err != nil {
		return Pass{}, err
	}
	pass := g.pass
	if g.certificates != nil {
		var chain []*x509.Certificate
		if r.Certificates != nil {
			chain = r.Certificates()
		}
		if err := g.certificates.admit(chain); err != nil {
			return Pass{}, err
		}
	}
	if g.logins != nil {
		if err := g.logins.admit(ctx, plain(r.Visitor), r.Values("Authorization")); err != nil {
			return Pass{}, err
		}
	}
	if g.viewers != nil {
		to, bearer, err := g.viewers.admit(r)
		if err != nil {
			return Pass{}, err
		}
		pass.Redirect = to
		pass.DropAuthorization = pass.DropAuthorization || bearer
	}
	if pass.MaxBody > 0 && r.Length > pass.MaxBody {
		return Pass{}, TooLarge(pass.MaxBody)
	}
	return pass, nil
}

func (g *Guard) admitAddress(a netip.Addr) error {
	if g.allow == nil && g.deny == nil {
		return nil
	}
	switch {
	case !a.IsValid():
		return &Denied{Code: CodeAddress, reason: "the address is not known"}
	case g.deny.contains(a):
		return &Denied{Code: CodeAddress, reason: a.String() + " is denied"}
	case g.allow != nil && !g.allow.contains(a):
		return &Denied{Code: CodeAddress, reason: a.String() + " is not among those allowed"}
	}
	return nil
}

func (g *Guard) admitRate(a netip.Addr) error {
	if g.visitors != nil {
		if wait := g.visitors.take(visitorKey(a)); wait > 0 {
			return &Denied{Code: CodeRate, RetryAfter: wait, reason: "of one visitor"}
		}
	}
	if g.total != nil {
		if wait := g.total.take(netip.Addr{}); wait > 0 {
			return &Denied{Code: CodeRate, RetryAfter: wait, reason: "of all visitors"}
		}
	}
	return nil
}
