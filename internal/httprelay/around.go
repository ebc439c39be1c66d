package httprelay

import (
	"bufio"
	"net"
	"net/http"
)

// around does to the requests and responses of a handler what the relay does to
// those of an upstream.
func (r *Relay) around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		out := in.Clone(in.Context())
		r.changeRequest(out, publicOrigin(in))
		cw := &changingWriter{ResponseWriter: w, relay: r, in: in}
		next.ServeHTTP(cw, out)
		cw.change() // of a response without a body
	})
}

// A changingWriter changes the header of a response before it is sent.
type changingWriter struct {
	http.ResponseWriter
	relay   *Relay
	in      *http.Request
	changed bool
}

func (w *changingWriter) change() {
	if !w.changed {
		w.changed = true
		w.relay.changeResponse(w.in, w.Header())
	}
}

func (w *changingWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.change()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *changingWriter) Write(p []byte) (int, error) {
	w.change()
	return w.ResponseWriter.Write(p)
}

// Flush sends what is buffered.
func (w *changingWriter) Flush() {
	w.change()
	http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack lets the caller take over the conn; it writes its own header.
func (w *changingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap is for http.ResponseController.
func (w *changingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
