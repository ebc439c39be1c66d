// Package websocktunnel speaks with the agents and servers of Taskcluster's
// websocktunnel, and of webhooktunnel as it was called before 2019, as
// docs/dialects/websocktunnel.md describes. It has both sides: a
// dialect.Dialect for the server, and Listen, which yields the streams that
// visitors cause as a net.Listener.
//
//	l, err := websocktunnel.Listen(ctx, websocktunnel.ListenOptions{
//		Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
//			return websocktunnel.Config{ID: "task-1", Server: "https://tunnel.example.com", Token: token}, nil
//		},
//	})
//	...
//	http.Serve(l, handler) // at l.URL()
package websocktunnel
