package server

import (
	"context"
	"slices"
	"strings"

	"adit/ingress"
	"adit/route"
	"adit/tunnel"
)

// A router is the table as the ingresses see it.
type router struct {
	table *route.Table
	own   []string // names of the server itself
}

var (
	_ ingress.TLSRouter = router{}
	_ ingress.Chooser   = router{}
)

func (s *Server) router() router {
	return router{s.table, []string{s.domain, s.base.Hostname(), localDomain}}
}

// TLS implements ingress.TLSRouter. Agents may come by the server's own names,
// who must not wait for one another.
func (r router) TLS(ctx context.Context, name string) bool {
	if slices.Contains(r.own, name) {
		return false
	}
	tls, _ := r.table.TLS(ctx, name)
	return tls
}

// Route implements ingress.Router.
func (r router) Route(ctx context.Context, key string) (ingress.Target, error) {
	return r.RouteFor(ctx, key, ingress.Ask{})
}

// RouteFor implements ingress.Chooser.
func (r router) RouteFor(ctx context.Context, key string, ask ingress.Ask) (ingress.Target, error) {
	if strings.HasPrefix(key, "@") {
		return ingress.Target{}, tunnel.ErrNoRoute // a service is for agents, and not for visitors
	}
	e, err := r.table.RouteFor(ctx, key, route.Visitor{Addr: ask.Visitor, Tried: ask.Tried})
	return ingress.Target{
		Tunnel:     e.Tunnel,
		Service:    e.Service,
		ID:         e.ID,
		TLS:        e.TLS,
		HTTP2:      e.HTTP2,
		PerVisitor: e.PerVisitor,
		Alive:      e.Alive,
		Policy:     e.Policy,
	}, err
}
