package server

import (
	"context"

	"adit/ingress"
	"adit/route"
)

// A router is the table as the ingresses see it.
type router struct{ table *route.Table }

var _ ingress.Router = router{}

// Route implements ingress.Router.
func (r router) Route(ctx context.Context, key string) (ingress.Target, error) {
	e, err := r.table.Route(ctx, key)
	return ingress.Target{
		Tunnel:     e.Tunnel,
		Service:    e.Service,
		TLS:        e.TLS,
		HTTP2:      e.HTTP2,
		PerVisitor: e.PerVisitor,
		Policy:     e.Policy,
	}, err
}
