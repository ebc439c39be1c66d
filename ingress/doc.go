// Package ingress has the doors through which visitors come in. Each finds the
// tunnel for a visitor with a Router and relays the visitor's bytes to a stream
// of it.
//
//	h := ingress.NewHTTP(ingress.HTTPOptions{Router: table, Domain: "example.com"})
//	defer h.Close()
//	err := h.Serve(ctx, listener)
//
// HTTP relays HTTP/1.0 and HTTP/1.1 by itself: it reads a head once, checks it
// with package http1, and writes it on with what has arrived of the body. What
// is unusual goes to package net/http: the server's own paths, HTTP/2 of
// visitors and of upstreams, and tunnels that carry HTTP messages and no
// streams.
//
// TLS reads the name that a visitor asks for. It gives the visitor to HTTP, or
// relays all bytes to an upstream that ends TLS itself. TCP relays whatever
// comes to a public port.
//
// What a visitor is told when a request cannot be relayed is listed in
// docs/errors.md.
package ingress
