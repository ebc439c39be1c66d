// Package adit gives a Go program a public address without a port of its own.
// The program dials out to an adit server and stays connected; visitors come to
// the server, and their conns come out of a net.Listener in the program:
//
//	l, err := adit.Listen(ctx,
//		adit.WithServer("wss://tunnel.example.com"),
//		adit.WithToken(os.Getenv("TUNNEL_TOKEN")),
//		adit.WithID("shop"))
//	if err != nil {
//		return err
//	}
//	defer l.Close()
//	log.Print("listening at ", l.URL())
//	return http.Serve(l, mux)
//
// [Listen] is for a program that answers visitors itself, [Forward] for one that
// publishes something else: a port, a Unix socket, another machine.
//
// Once connected, both stay so by themselves. When the connection to the server
// breaks they dial again, and the conns of visitors go on where they were if
// that succeeds within a minute. [WithEvents] and [WithLogger] tell what
// happens.
//
// The server is the program adit, or package server of this module, which is
// also an http.Handler for another program. Tests find a server in package
// adittest.
//
// # Who ends what
//
// The context given to Listen and Forward bounds the start, and nothing after
// it. [Listener.Close] is that of a net.Listener: conns that were accepted stay
// open. [Listener.Shutdown] waits for them too. The caller closes the conns.
package adit
