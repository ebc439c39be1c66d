package admin

import (
	"net/http"
	"strings"

	"adit/route"
)

// maxRoutes bounds a set of routes, in bytes of JSON.
const maxRoutes = 8 << 20

// A RouteSet is the operator's rules for who serves which name.
type RouteSet struct {
	Routes   []route.Rule `json:"routes"`
	Revision string       `json:"revision"` // changes with the routes
	Source   string       `json:"source"`   // RoutesOfAPI or RoutesOfConfig
}

// Values of RouteSet.Source.
const (
	RoutesOfAPI    = "api"    // they change by SetRoutes, and last in the data directory
	RoutesOfConfig = "config" // they change with the config file alone
)

// Codes of a RouteSetError, as in docs/errors.md.
const (
	RoutesInvalid = "bad-request"
	RoutesChanged = "routes-changed"
	RoutesFixed   = "routes-fixed"
	RoutesPort    = "port-not-opened"
)

// A RouteSetError says why a set of routes was not taken. Nothing has changed.
type RouteSetError struct{ Code, Reason string }

func (e *RouteSetError) Error() string { return "admin: routes: " + e.Reason }

func (h *Handler) routeSet(w http.ResponseWriter, _ *http.Request) {
	set := h.opts.Server.RouteSet()
	w.Header().Set("ETag", `"`+set.Revision+`"`)
	writeJSON(w, http.StatusOK, set)
}

// setRoutes replaces the set, or says what that would change. With If-Match it
// does so only if the set is still the one of that revision.
func (h *Handler) setRoutes(w http.ResponseWriter, r *http.Request) {
	var dry bool
	switch q := r.URL.Query().Get("dry_run"); q {
	case "", "false":
	case "true":
		dry = true
	default:
		writeError(w, badRequest("dry_run %.40q: true and false are allowed", q))
		return
	}
	var set struct {
		Routes *[]route.Rule `json:"routes"`
	}
	if err := readJSON(r, &set); err != nil {
		h.fail(w, err)
		return
	}
	if set.Routes == nil { // an empty object is rather a mistake than the end of all routes
		writeError(w, badRequest("routes is missing: want a list, which may be empty"))
		return
	}
	of := strings.Trim(r.Header.Get("If-Match"), `"`)
	if of == "*" {
		of = ""
	}
	changes, err := h.opts.Server.SetRoutes(*set.Routes, of, dry)
	if err != nil {
		h.fail(w, err)
		return
	}
	if changes == nil {
		changes = []route.Change{}
	}
	if !dry {
		h.log.Info("routes set by operator", "routes", len(*set.Routes), "changes", len(changes), "remote", r.RemoteAddr)
	}
	writeJSON(w, http.StatusOK, map[string]any{"changes": changes, "applied": !dry, "revision": h.opts.Server.RouteSet().Revision})
}

// problem is the answer that says e.
func (e *RouteSetError) problem() *apiError {
	status := http.StatusConflict
	switch e.Code {
	case RoutesInvalid:
		status = http.StatusBadRequest
	case RoutesChanged:
		status = http.StatusPreconditionFailed
	}
	return &apiError{status, e.Code, e.Reason}
}
