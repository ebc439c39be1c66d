// Package dialect defines a wire protocol between agents and the server. Each
// package below it speaks one, both sides; the server is given a slice of them
// and asks each in turn whether a request is for it.
package dialect

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"

	"adit/auth"
	"adit/tunnel"
)

// ErrResumed is returned by Accept, with the tunnel of an earlier call, when the
// request gave that one's session a new carrier.
var ErrResumed = errors.New("dialect: session resumed")

// An AdmitFunc turns the claim in a handshake into an identity, or says why
// not. It is called before a tunnel exists.
type AdmitFunc func(ctx context.Context, claim auth.Claim) (*auth.Identity, error)

// A Dialect speaks one wire protocol with agents, on the server's side. Its
// methods are safe for concurrent use.
type Dialect interface {
	// Name is the dialect's name in config, logs and metrics.
	Name() string

	// Match reports whether r opens a session in this dialect. It neither
	// answers r nor reads its body.
	Match(r *http.Request) bool

	// Accept runs the handshake. It calls admit once, with the claim that it
	// found, and refuses in the dialect's own form if admit fails; the error
	// then is admit's. The caller closes the tunnel, but not again the one
	// that comes with ErrResumed.
	Accept(w http.ResponseWriter, r *http.Request, admit AdmitFunc) (tunnel.Tunnel, error)
}

// A Continued is the error of Accept for a request that has been answered, and
// whose handshake goes on in further ones.
type Continued struct {
	// Conn is what the handshake runs on. The caller may close it, which ends
	// the handshake.
	Conn net.Conn

	// Finish runs the rest of the handshake, and returns what Accept does
	// otherwise. It is called once.
	Finish func() (tunnel.Tunnel, error)
}

func (c *Continued) Error() string { return "dialect: the handshake goes on" }

// An Extended is a dialect of which some requests open no session, but belong to
// one.
type Extended interface {
	// Handler returns what serves r, if it is such a request, and otherwise
	// nil. It does not read r's body.
	Handler(r *http.Request) http.Handler
}

// An Authenticator is a dialect whose credentials are of a kind of its own: it
// decides on its agents' claims instead of the server's own authenticator. The
// error is an *auth.Error.
type Authenticator interface {
	Authenticate(ctx context.Context, claim auth.Claim) (*auth.Identity, error)
}

// A Registrant is a tunnel that has one name, its ID, with which it registered.
// The server binds that for HTTP, and the agent hears of it only then.
type Registrant interface {
	// Registered tells the agent where visitors reach it, or, if err is not
	// nil, that they do not; the caller then closes the tunnel. It is called
	// once and does not block.
	Registered(b Bound, err error)
}

// A Binder is a tunnel whose agent binds and unbinds names while it lives,
// instead of having the one name that it registered with.
type Binder interface {
	// ServeBinds lets h answer the agent until the tunnel ends. It is called
	// once and does not block; requests that came before are not lost.
	ServeBinds(h BindHandler)
}

// A BindHandler decides what an agent may bind. Its methods are called one at
// a time for one tunnel; ctx ends with the tunnel.
type BindHandler interface {
	// Bind makes the tunnel reachable as b asks, or not at all.
	Bind(ctx context.Context, b Binding) (Bound, error)

	// Unbind takes back the binding of that key.
	Unbind(ctx context.Context, key string) error

	// Refresh replaces the credential that the session lives on.
	Refresh(ctx context.Context, claim auth.Claim) error
}

// A Forwarder is a tunnel whose agent may open streams too, each to a target
// that the server connects it to.
type Forwarder interface {
	// AcceptForward returns the next such stream. It fails once the tunnel has
	// ended.
	AcceptForward() (tunnel.Asked, error)
}

// A Kind is what visitors speak at a binding.
type Kind string

const (
	HTTP Kind = "http" // HTTP by hostname or path
	TCP  Kind = "tcp"  // a public TCP port
	TLS  Kind = "tls"  // TLS by server name, which the upstream ends
	UDP  Kind = "udp"  // a public UDP port; a stream carries the datagrams of one visitor

	// Service has no visitors: other agents reach it by the ID and Name, if
	// their credentials allow it.
	Service Kind = "service"
)

// A Binding asks for a public address for one service of an agent.
type Binding struct {
	Key     string    // the agent's own name for this binding, unique in its session
	Kind    Kind      // what visitors speak
	ID      tunnel.ID // the name to bind
	Service string    // passed in StreamInfo; empty is the agent's default
	Port    uint16    // public port of TCP or UDP; 0 lets the server choose one of its range
	Name    string    // of a Service, as tunnel.CheckService takes it; empty for others

	// Addr is the address of the server that the port of TCP or UDP is bound
	// on; the zero Addr is where the server has its ports otherwise. Who asks
	// for one looks at Bound.Addr: a server that does not know of it binds all.
	Addr netip.Addr

	// Hostnames are public names beside that of the ID, for HTTP and TLS; in
	// lower case, without port or trailing dot.
	Hostnames []string

	// HTTP2 says that the upstream speaks HTTP/2 from the first byte (RFC
	// 9113, section 3.3); otherwise it speaks HTTP/1.1. For HTTP.
	HTTP2 bool

	// PerVisitor says that no stream is to carry the requests of two
	// visitors, so that each has its visitor's address. For HTTP; streams of
	// other kinds never do.
	PerVisitor bool

	// Policy is who may enter, as package policy encodes it; empty is
	// everybody. A server that does not understand it refuses the binding;
	// see also Bound.Policy.
	Policy []byte
}

// Bound is where visitors find a binding.
type Bound struct {
	URLs []string       // the public addresses, best first, such as "https://web.example.com/"
	Port uint16         // public port; 0 unless Kind is TCP or UDP
	Addr netip.AddrPort // address that the port is bound on

	// Policy says that the server enforces the binding's policy. If it has
	// one and this is not set, the server knows nothing of policies, and the
	// agent has to unbind the name.
	Policy bool
}

// A BindError is a refusal that reaches the agent with its code.
type BindError struct {
	Code   BindCode
	Reason string // for people: names the field, the value and what is allowed
}

func (e *BindError) Error() string { return "bind: " + string(e.Code) + ": " + e.Reason }

// A BindCode is a stable code of docs/errors.md.
type BindCode string

const (
	BindInvalid   BindCode = "invalid"        // a field is malformed
	BindForbidden BindCode = "forbidden"      // the credential does not allow it
	BindTaken     BindCode = "name-taken"     // another identity holds the name
	BindBlocked   BindCode = "name-blocked"   // the operator of the server has blocked the name
	BindPortInUse BindCode = "port-in-use"    // the port is taken
	BindNoPort    BindCode = "no-port"        // no port of the range is free, or none is allowed
	BindLimit     BindCode = "too-many-names" // the session has its share of names
	BindInternal  BindCode = "internal"       // the server failed
)
