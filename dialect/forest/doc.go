// Package forest speaks the protocol of forest/tunnel, later named threshold:
// opaque TCP and TLS over one connection with client certificates, steered by a
// management interface. docs/dialects/forest-tunnel.md describes it.
//
//	srv, err := forest.NewServer(forest.ServerConfig{ListenPort: 9056, ...}, forest.ServerOptions{})
//	return srv.Run(ctx)
//
//	agent, err := forest.NewAgent(forest.AgentConfig{ServerAddr: "tunnel.example.com:9056", ...}, forest.AgentOptions{})
//	return agent.Run(ctx)
//
// An agent opens a control stream of yamux on a connection that began with a
// CONNECT request. For each visitor the server writes a message there, and the
// agent opens one stream per message, in their order, which is all that links
// the two. Sides that are both of this package agree on more by a header.
package forest
