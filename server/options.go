package server

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/ingress"
	"adit/policy"
	"adit/route"
	"adit/tunnel"
)

// Options configures a Server. Dialects and Auth are required.
type Options struct {
	// Listen is the TCP address for visitors and agents alike, such as
	// ":8080". Public ports are bound on its host. If empty, visitors and
	// agents come through ServeHTTP alone, and public ports are bound on all
	// addresses.
	Listen string

	// Domain is the domain below which each ID has a hostname. If empty, IDs
	// have hostnames below "localhost" only, which lead to this machine for
	// those that are on it, and PathMode is required.
	Domain string

	// PathMode serves each ID below /<id>/ too, at Domain itself and at
	// addresses.
	PathMode bool

	// Rules, if not nil, are how visitors are served instead of adit's own
	// way, with the IDs that PathMode and Domain stand for.
	Rules *ingress.Rules

	// Own is asked about requests for the server itself before its dialects
	// are: those of which ingress.HTTPOptions.Own is told. nil means none.
	Own func(*http.Request) http.Handler

	// Secure ends the TLS of all who connect to Listen. If nil, they come
	// without.
	Secure *tls.Config

	// OpenTimeout bounds how long an agent may take to accept a visitor's
	// stream; 0 means 10 s.
	OpenTimeout time.Duration

	// MaxHeadBytes bounds the head of a visitor's request, and of its
	// response; 0 means 64 KiB.
	MaxHeadBytes int

	// PublicURL is how visitors reach the server from outside, if that is not
	// obvious: behind a TLS proxy "https://tunnel.example.com", say. If it
	// and Domain are empty, each agent is told addresses under the host by
	// which it reached the server itself.
	//
	// It has a path only where ServeHTTP is mounted below that path, such as
	// "https://example.com/tunnels"; then there is neither Listen nor Domain.
	PublicURL string

	// TLS is the port for visitors and agents who speak TLS, beside Listen;
	// nil means that there is none.
	TLS *TLSOptions

	// QUICListen is the UDP address for agents that use QUIC as their carrier,
	// with the certificates of TLS, which it needs. If empty, there is none.
	QUICListen string

	// H2C lets visitors without TLS speak HTTP/2 from the first byte, as
	// those with TLS may anyway.
	H2C bool

	// TCPPorts and UDPPorts are the public ports that agents may be given.
	TCPPorts, UDPPorts []ingress.PortRange

	// TrustedProxies are addresses whose forwarded header fields are kept.
	TrustedProxies []netip.Prefix

	// ProxyProtocolFrom are addresses of load balancers whose connections
	// begin with a header of the PROXY protocol, version 1 or 2, which says
	// who is behind them: at Listen, at the port of TLS and at public TCP
	// ports. From there a connection without is closed; from everywhere else
	// a header is not taken for one.
	ProxyProtocolFrom []netip.Prefix

	// Policy is what all visitors are under, beside the policies of the
	// tunnels that they go to: both must let them in. It takes AllowIP,
	// DenyIP, Rate, TotalRate, MaxBody and VisitorCA; the last two are for
	// HTTP visitors alone. See also SetPolicy.
	Policy policy.Policy

	// RegistrantPolicy, if not nil, returns what the visitors of an ID are
	// under whose agent cannot ask for anything: see dialect.Registrant. An
	// error turns the agent away. It may be called by several goroutines.
	RegistrantPolicy func(tunnel.ID) (policy.Policy, error)

	// Hold is how long visitors wait for an agent that is away; 0 means 30 s,
	// negative means not at all.
	Hold time.Duration

	// Dialects are the protocols that agents may speak.
	Dialects []dialect.Dialect

	// Auth decides on agents' claims. The server runs it.
	Auth *auth.Authenticator

	// Forward is where the server connects agents to that ask for it, as far as
	// their credentials allow it too; holders of the shared secret may go
	// everywhere here. If empty, the server forwards nothing. The dialects
	// have to let agents open streams.
	Forward []auth.ForwardRule

	// MaxForwards is how many streams agents may have to targets at a time, all
	// together; 0 means 10000. Who has some already gets no more than its share
	// of those that are left. MaxForwardsPerSubject is how many they may be with
	// credentials of one subject besides, but for the shared secret; 0 means
	// that there is no such bound.
	MaxForwards, MaxForwardsPerSubject int

	// NoDoctor turns away those who examine the way to the server, without
	// credentials; see package doctor. With Rules that is always so.
	NoDoctor bool

	// ReservedIDs are IDs that agents may bind only if their credentials name
	// them.
	ReservedIDs auth.Reserved

	// MaxAgentsPerSubject is how many agents may be connected at a time with
	// credentials of one subject, but for the shared secret; 0 means any
	// number.
	MaxAgentsPerSubject int

	// Grace is how long Run lets requests finish when its ctx ends; 0 means
	// 10 s, negative that it does not.
	Grace time.Duration

	// DrainDelay is how long Run goes on as before when its ctx ends, but for
	// Ready: load balancers notice, and send visitors elsewhere. 0 means not
	// at all.
	DrainDelay time.Duration

	// Reload is what Server.Reload reads again.
	Reload []Reloader

	// OnRequest is called after each request of an HTTP visitor, and after each
	// visitor of other protocols; it must not block. Tracer follows requests.
	// Either may be nil.
	OnRequest func(ingress.Finished)
	Tracer    ingress.Tracer

	// BlockFile is where the names that the operator has blocked last. If
	// empty, they are forgotten with the server.
	BlockFile string

	// Routes are the operator's rules for who serves which name, if
	// RoutesFixed is set. Otherwise they are set through the admin API, and
	// RouteFile is where they last; if that is empty, they are forgotten with
	// the server.
	Routes      []route.Rule
	RoutesFixed bool
	RouteFile   string

	// Version is that of the program, for operators.
	Version string

	// Logger receives the server's events. If nil, nothing is logged.
	Logger *slog.Logger
}
