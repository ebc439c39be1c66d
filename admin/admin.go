// Package admin is what operators and their programs ask a server, or an
// agent, beside the traffic: whether it is well, what it carries, its metrics
// and profiles, and a few orders such as to close a session. It is served on
// an address of its own, never on that of visitors.
//
//	h, err := admin.New(admin.Options{Server: s, Token: token})
//	...
//	ln, err := admin.Listen("127.0.0.1:9090")
//	...
//	err = admin.Serve(ctx, ln, h, log)
//
// All but /healthz and /readyz takes a bearer token. openapi.yaml describes the
// API, which is served at /api/v1/openapi.yaml too.
package admin

import (
	"errors"
	"log/slog"
	"net/http"
	"path"
	"strings"

	"adit/auth"
)

// Options configures a Handler. Token is required, and Server or Agent.
type Options struct {
	// Server is the server to tell about, Agent the agent. Paths of the one
	// that is nil do not exist.
	Server Server
	Agent  Agent

	// Token is what whoever uses the API shows. ReadToken, if there is one,
	// is enough to look at things, and good for nothing else.
	Token, ReadToken auth.Secret

	// Metrics is served at /metrics, if not nil. With OpenMetrics it takes no
	// token.
	Metrics     http.Handler
	OpenMetrics bool

	// Hosts are the names by which the address may be reached, besides
	// localhost and IP addresses. Requests for others are refused: they may
	// come from a page whose name was made to lead here.
	Hosts []string

	// Logger receives orders, and attempts without a token. If nil, nothing is
	// logged.
	Logger *slog.Logger
}

// ErrNotFound is returned by a Server for what it does not have.
var ErrNotFound = errors.New("admin: not found")

// A role is who may use a path.
type role uint8

const (
	anybody  role = iota
	reader        // with either token
	operator      // with Options.Token
)

// An apiPath is a path of the API.
type apiPath struct {
	pattern string // as http.ServeMux takes it
	role    role
	handle  http.HandlerFunc
}

// A Handler answers requests to the admin address. It is safe for concurrent
// use.
type Handler struct {
	opts  Options
	log   *slog.Logger
	guard guard
	mux   *http.ServeMux
	roles map[string]role // by pattern
}

// New returns a Handler. It fails without a token: what may be asked here is
// for nobody but operators.
func New(opts Options) (*Handler, error) {
	if opts.Token.IsZero() {
		return nil, errors.New("admin: there is no token, and without one anybody who reaches the address would be an operator")
	}
	if opts.Server == nil && opts.Agent == nil {
		return nil, errors.New("admin: there is neither a server nor an agent")
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Handler{opts: opts, log: opts.Logger, mux: http.NewServeMux(), roles: make(map[string]role)}
	h.guard.init(&h.opts)
	for _, r := range h.routes() {
		h.roles[r.pattern] = r.role
		h.mux.HandleFunc(r.pattern, r.handle)
	}
	return h, nil
}

// routes are all paths that there are.
func (h *Handler) routes() []apiPath {
	all := []apiPath{
		{"GET /healthz", anybody, h.healthy},
		{"GET /readyz", anybody, h.ready},
		{"GET /api/v1/openapi.yaml", reader, h.openAPI},
		{"GET /debug/pprof/", operator, h.profiles},
		{"GET /debug/pprof/{profile}", operator, h.profile},
	}
	if h.opts.Metrics != nil {
		who := reader
		if h.opts.OpenMetrics {
			who = anybody
		}
		all = append(all, apiPath{"GET /metrics", who, h.opts.Metrics.ServeHTTP})
	}
	if h.opts.Agent != nil {
		all = append(all, apiPath{"GET /api/v1/agent", reader, h.agent})
	}
	if h.opts.Server != nil {
		all = append(all, []apiPath{
			{"GET /api/v1/status", reader, h.status},
			{"GET /api/v1/sessions", reader, h.sessions},
			{"GET /api/v1/sessions/{id}", reader, h.session},
			{"DELETE /api/v1/sessions/{id}", operator, h.closeSession},
			{"GET /api/v1/tunnels", reader, h.tunnels},
			{"GET /api/v1/routes", reader, h.routeList},
			{"GET /api/v1/route-set", reader, h.routeSet},
			{"PUT /api/v1/route-set", operator, h.setRoutes},
			{"GET /api/v1/blocks", reader, h.blocks},
			{"POST /api/v1/blocks", operator, h.block},
			{"DELETE /api/v1/blocks/{name}", operator, h.unblock},
			{"POST /api/v1/reload", operator, h.reload},
		}...)
	}
	return all
}

// ServeHTTP answers one request. Nothing but the paths for anybody can be told
// from what is not there without a token.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if err := h.guard.place(r); err != nil {
		h.refuse(w, r, err)
		return
	}
	_, pattern := h.mux.Handler(r)
	need, known := h.roles[pattern]
	if !known {
		need = reader
	}
	if err := h.guard.enter(r, need); err != nil {
		h.refuse(w, r, err)
		return
	}
	p := r.URL.Path
	switch {
	case path.Clean(p) != p && path.Clean(p)+"/" != p:
		writeError(w, errAbsent) // ServeMux would redirect
		return
	case !known:
		h.absent(w, r)
		return
	}
	limit := int64(maxBody)
	if pattern == "PUT /api/v1/route-set" {
		limit = maxRoutes
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	h.mux.ServeHTTP(w, r)
}

// absent answers a request for a path or method that is not there.
func (h *Handler) absent(w http.ResponseWriter, r *http.Request) {
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := h.mux.Handler(other); strings.HasPrefix(pattern, method+" ") {
			allow = append(allow, method)
		}
	}
	if len(allow) > 0 {
		w.Header().Set("Allow", strings.Join(allow, ", "))
		writeError(w, &apiError{http.StatusMethodNotAllowed, "method-not-allowed", "the path takes " + strings.Join(allow, ", ")})
		return
	}
	writeError(w, errAbsent)
}
