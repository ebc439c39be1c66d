// Package wsmux carries streams over one WebSocket in the way of Taskcluster's
// websocktunnel and webhooktunnel, as docs/dialects/websocktunnel.md describes
// it: each frame is a binary message, and each direction of a stream has a
// credit in bytes. A Session is either side of it.
//
//	s := wsmux.New(conn, wsmux.Server, wsmux.Options{})
//	defer s.Close()
//	s.Start(nil)
//	st, err := s.Open(ctx)
//
// Memory follows what is in flight: a stream that nobody writes to holds no
// buffer, and what was received and not read is held as it came, up to the
// window. Sides that both say so in the handshake speak an extension, which
// adds windows that both know, opening without a round trip, and resets; see
// Options.Extended.
package wsmux
