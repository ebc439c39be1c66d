// Package wstunnel speaks with RightScale's wstunnel, version 1.0.7, in both
// directions: its clients connect to a Server, and a Client connects to its
// servers. One WebSocket at /_tunnel carries whole HTTP requests and answers as
// messages, each behind an id of four hexadecimal digits.
//
//	s := wstunnel.NewServer(wstunnel.ServerOptions{})
//	defer s.Close()
//	http.ListenAndServe(":80", s)
//
//	c, err := wstunnel.NewClient(wstunnel.ClientOptions{
//		Tunnel: "ws://tunnel.example.com", Token: token, Server: "http://localhost:8080",
//	})
//	err = c.Run(ctx)
//
// A token is the secret that callers and the client share; it names the tunnel.
// Where both ends are adit, they notice by a header field of the handshake, and
// a native session takes the place of the messages, so that bodies stream and
// WebSockets pass.
//
// docs/dialects/wstunnel.md tells what differs from the original.
package wstunnel
