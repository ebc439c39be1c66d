package forest

import (
	"encoding/json"
	"slices"
	"sync"
)

// maxKnown bounds the identifiers that a server remembers.
const maxKnown = 1 << 16

// Names of an agent's states, as the original lists them.
const (
	stateUnknown   = "ClientUnknown"
	stateConnected = "ClientConnected"
	stateClosed    = "ClientClosed"
)

// A registry knows the agents that are connected, and those that were. Its
// methods are safe for concurrent use.
type registry struct {
	mu      sync.Mutex // guards the fields below
	agents  map[string]*known
	changed chan struct{} // closed, and replaced, when a session comes
}

// A known is an identifier that has connected.
type known struct {
	current, last string
	sessions      []*session // the newest is last; visitors go there
}

func newRegistry() *registry {
	return &registry{agents: make(map[string]*known), changed: make(chan struct{})}
}

// add takes a session in. Another with the same identifier goes on beside it,
// since the agent that lost would come back and win. It reports false if too
// many identifiers are known.
func (r *registry) add(s *session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.agents[s.claim.id]
	if k == nil {
		if len(r.agents) >= maxKnown {
			return false
		}
		k = &known{current: stateUnknown}
		r.agents[s.claim.id] = k
	}
	k.sessions = append(k.sessions, s)
	k.become(stateConnected)
	close(r.changed)
	r.changed = make(chan struct{})
	return true
}

func (r *registry) remove(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.agents[s.claim.id]
	k.sessions = slices.DeleteFunc(k.sessions, func(o *session) bool { return o == s })
	if len(k.sessions) == 0 {
		k.become(stateClosed)
	}
}

func (k *known) become(state string) {
	if k.current != state {
		k.last, k.current = k.current, state
	}
}

// pick returns the session that visitors are to use, or nil. ids are those that
// may serve them, the first of them first, and not those in but: the newest
// session of the first that gives signs of life, or if none does, the newest of
// the first that there is. changed is closed when a session comes after that.
func (r *registry) pick(ids []string, but ...*session) (s *session, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		k := r.agents[id]
		if k == nil {
			continue
		}
		for _, o := range slices.Backward(k.sessions) {
			if o.over() || slices.Contains(but, o) {
				continue
			}
			if !o.doubt.Load() {
				return o, r.changed
			}
			if s == nil {
				s = o
			}
		}
	}
	return s, r.changed
}

// state returns the state of id; it is empty if it never connected.
func (r *registry) state(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.agents[id]; k != nil {
		return k.current
	}
	return ""
}

func (r *registry) sessions() (all []*session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.agents {
		all = append(all, k.sessions...)
	}
	return all
}

// list is the answer to GET /clients.
func (r *registry) list() []byte {
	type states struct{ CurrentState, LastState string }
	r.mu.Lock()
	all := make(map[string]states, len(r.agents))
	for id, k := range r.agents {
		all[id] = states{k.current, k.last}
	}
	r.mu.Unlock()
	b, _ := json.Marshal(all) // strings alone
	return b
}
