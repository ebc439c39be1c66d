package server

import (
	"io"
	"net/http"

	"adit/ingress"
)

// health returns the handler of a request for the server's health, or nil. The
// answers say no more than they have to: anybody can ask.
func (s *Server) health(r *http.Request) http.Handler {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil
	}
	switch r.URL.Path {
	case ingress.HealthPath:
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { sayHealth(w, nil) })
	case ingress.ReadyPath:
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { sayHealth(w, s.Ready()) })
	}
	return nil
}

func sayHealth(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, "not ready\n")
		return
	}
	io.WriteString(w, "ok\n")
}
