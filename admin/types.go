package admin

import (
	"time"

	"adit/route"
)

// A Server is what the API tells about and gives orders to. Its methods are
// safe for concurrent use. Lists are in the order of what tells their elements
// apart.
type Server interface {
	// Ready returns why no visitors should be sent here, and nil if they may.
	Ready() error

	Status() Status
	Sessions() []Session
	Tunnels() []Tunnel
	Routes() []Route

	// CloseSession ends a session, whose agent may come back. The error is
	// ErrNotFound if there is none of that ID.
	CloseSession(id string) error

	// Blocks returns the names that are blocked; Block adds one, or replaces
	// it, and Unblock takes one away. Their errors are ErrNotFound, a
	// *NameError, or that it could not be written down.
	Blocks() []Block
	Block(Block) error
	Unblock(name string) error

	// RouteSet returns the operator's rules. SetRoutes puts others in their
	// place, all or none, or only says what would change; of is the revision
	// that they have to have now, if it is not empty. The error is a
	// *RouteSetError, or that they could not be written down.
	RouteSet() RouteSet
	SetRoutes(rules []route.Rule, of string, dryRun bool) ([]route.Change, error)

	// Reload reads again what can be read again, all of it or nothing.
	Reload() error
}

// An Agent is what an agent's API tells about. Its methods are safe for
// concurrent use.
type Agent interface {
	// Ready returns why the agent's tunnels cannot be used, and nil if they
	// can.
	Ready() error

	AgentStatus() AgentStatus
}

// A NameError says why something cannot be a name.
type NameError struct{ Reason string }

func (e *NameError) Error() string { return "admin: " + e.Reason }

// A Status is a server at one moment.
type Status struct {
	Version  string    `json:"version"`
	Started  time.Time `json:"started_at"`
	URL      string    `json:"url"`
	Ready    bool      `json:"ready"`
	Draining bool      `json:"draining"`
	Sessions int       `json:"sessions"`
	Tunnels  int       `json:"tunnels"`
	Visitors int       `json:"visitors"` // connections
	Waiting  int       `json:"waiting"`  // visitors without an agent yet
	Streams  int       `json:"streams"`
}

// A State says whether a session can carry streams.
type State string

const (
	Available State = "available"
	Away      State = "away" // between two carriers, or about to end
)

// A Session is an agent that is connected, or was a moment ago and may come
// back.
type Session struct {
	ID          string    `json:"id"`
	Dialect     string    `json:"dialect"`
	AgentID     string    `json:"agent_id,omitempty"` // what it called itself when it connected
	Instance    string    `json:"instance,omitempty"`
	Subject     string    `json:"subject"`
	Credential  string    `json:"credential,omitempty"` // its kind
	TokenID     string    `json:"token_id,omitempty"`   // by which it can be revoked
	Remote      string    `json:"remote"`
	State       State     `json:"state"`
	ConnectedAt time.Time `json:"connected_at"`
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
	RoundTrip   float64   `json:"round_trip_seconds,omitempty"` // 0 if it is not known
	Carrier     string    `json:"carrier,omitempty"`            // the one that it has or had last, if the dialect has several
	Streams     int       `json:"streams"`
	Tunnels     int       `json:"tunnels"`
	Buffered    int       `json:"buffered_bytes"`
}

// A Tunnel is what a session has bound.
type Tunnel struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	Service string    `json:"service,omitempty"`
	URLs    []string  `json:"urls"`
	Port    uint16    `json:"port,omitempty"`
	Session string    `json:"session"`
	Subject string    `json:"subject"`
	State   State     `json:"state"`
	BoundAt time.Time `json:"bound_at"`
}

// A Route is what visitors can ask for. Without targets it is kept for its
// holder, who has been here a moment ago.
type Route struct {
	Key     string   `json:"key"` // "/" and an ID, a hostname, or ":" and a port, and "/udp" if it is one of UDP
	ID      string   `json:"id,omitempty"`
	Subject string   `json:"subject,omitempty"`
	Waiting int      `json:"waiting"`
	Blocked bool     `json:"blocked,omitempty"`
	Kind    string   `json:"kind,omitempty"`   // of one that a rule of the operator made
	Sticky  string   `json:"sticky,omitempty"` // the same
	Targets []Target `json:"targets"`
}

// A Target is a session that a route leads to. Those of an operator's rule say
// which member of it they are, and a member that nobody has bound has no session.
type Target struct {
	Session  string `json:"session"`
	Service  string `json:"service,omitempty"`
	State    State  `json:"state"`
	ID       string `json:"id,omitempty"`
	Priority int    `json:"priority,omitempty"`
	Weight   int    `json:"weight,omitempty"`
	Health   string `json:"health,omitempty"` // healthy, unknown, unhealthy, silent or away
	Error    string `json:"error,omitempty"`  // of the last check
}

// A Block is a name that nobody can bind or visit.
type Block struct {
	Name   string    `json:"name"` // an ID, or a hostname, in lower case
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
}

// An AgentStatus is an agent at one moment.
type AgentStatus struct {
	Version string        `json:"version"`
	Started time.Time     `json:"started_at"`
	Server  string        `json:"server"`
	Phase   string        `json:"phase"`
	Carrier string        `json:"carrier,omitempty"` // by which it is connected
	Error   string        `json:"error,omitempty"`
	Tunnels []AgentTunnel `json:"tunnels"`
}

// An AgentTunnel is a tunnel of an agent.
type AgentTunnel struct {
	ID       string   `json:"id"`
	Kind     string   `json:"kind"`
	Upstream string   `json:"upstream"`
	URLs     []string `json:"urls"`
	Error    string   `json:"error,omitempty"`
}
