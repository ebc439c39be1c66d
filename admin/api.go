package admin

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const (
	maxBody      = 64 << 10 // bytes of a request
	defaultLimit = 1000     // elements of a list
	maxLimit     = 10_000
	maxReason    = 256 // bytes
)

//go:embed openapi.yaml
var openAPI []byte

// An apiError is an answer that is none. Its code is stable and listed in
// docs/errors.md.
type apiError struct {
	status  int
	code    string
	message string
}

func (e *apiError) Error() string { return "admin: " + e.code + ": " + e.message }

var errAbsent = &apiError{http.StatusNotFound, "not-found", "there is nothing of that name"}

func badRequest(format string, args ...any) *apiError {
	return &apiError{http.StatusBadRequest, "bad-request", fmt.Sprintf(format, args...)}
}

func writeError(w http.ResponseWriter, e *apiError) {
	writeJSON(w, e.status, map[string]any{"error": map[string]string{"code": e.code, "message": e.message}})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain values
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

// fail answers with what err says, if that is for the operator.
func (h *Handler) fail(w http.ResponseWriter, err error) {
	var (
		ae *apiError
		ne *NameError
		re *RouteSetError
	)
	switch {
	case errors.As(err, &ae):
		writeError(w, ae)
	case errors.As(err, &ne):
		writeError(w, badRequest("%s", ne.Reason))
	case errors.As(err, &re):
		writeError(w, re.problem())
	case errors.Is(err, ErrNotFound):
		writeError(w, errAbsent)
	default:
		h.log.Error("admin request not carried out", "err", err)
		writeError(w, &apiError{http.StatusInternalServerError, "internal", err.Error()})
	}
}

// healthy answers as long as the process does.
func (h *Handler) healthy(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") }

func (h *Handler) ready(w http.ResponseWriter, _ *http.Request) {
	var err error
	if h.opts.Server != nil {
		err = h.opts.Server.Ready()
	} else {
		err = h.opts.Agent.Ready()
	}
	if err != nil {
		plain(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	plain(w, http.StatusOK, "ready")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	io.WriteString(w, text+"\n")
}

func (h *Handler) openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	w.Write(openAPI)
}

func (h *Handler) agent(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, h.opts.Agent.AgentStatus())
}

func (h *Handler) status(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, h.opts.Server.Status())
}

func (h *Handler) sessions(w http.ResponseWriter, r *http.Request) {
	writeList(w, r, "sessions", h.opts.Server.Sessions(), func(s Session) string { return s.ID })
}

func (h *Handler) session(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	for _, s := range h.opts.Server.Sessions() {
		if s.ID == id {
			writeJSON(w, http.StatusOK, s)
			return
		}
	}
	h.fail(w, ErrNotFound)
}

func (h *Handler) tunnels(w http.ResponseWriter, r *http.Request) {
	all := h.opts.Server.Tunnels()
	if id := r.URL.Query().Get("id"); id != "" {
		all = slices.DeleteFunc(all, func(t Tunnel) bool { return t.ID != id })
	}
	writeList(w, r, "tunnels", all, func(t Tunnel) string {
		return t.ID + "/" + t.Kind + "/" + strconv.Itoa(int(t.Port)) + "/" + t.Session
	})
}

func (h *Handler) routeList(w http.ResponseWriter, r *http.Request) {
	writeList(w, r, "routes", h.opts.Server.Routes(), func(r Route) string { return r.Key })
}

func (h *Handler) blocks(w http.ResponseWriter, r *http.Request) {
	writeList(w, r, "blocks", h.opts.Server.Blocks(), func(b Block) string { return b.Name })
}

// writeList writes a page of all: those whose key is behind the one in the
// query, up to its limit.
func writeList[T any](w http.ResponseWriter, r *http.Request, name string, all []T, key func(T) string) {
	q := r.URL.Query()
	limit := defaultLimit
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxLimit {
			writeError(w, badRequest("limit %.40q: 1 to %d are allowed", s, maxLimit))
			return
		}
		limit = n
	}
	slices.SortStableFunc(all, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	if after := q.Get("after"); after != "" {
		at, found := slices.BinarySearchFunc(all, after, func(e T, k string) int { return strings.Compare(key(e), k) })
		if found {
			at++
		}
		all = all[at:]
	}
	page := map[string]any{}
	if len(all) > limit {
		all = all[:limit]
		page["next"] = key(all[limit-1])
	}
	if all == nil {
		all = []T{}
	}
	page[name] = all
	writeJSON(w, http.StatusOK, page)
}

func (h *Handler) closeSession(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if err := h.opts.Server.CloseSession(id); err != nil {
		h.fail(w, err)
		return
	}
	h.log.Info("session closed by operator", "session", id, "remote", r.RemoteAddr)
	w.WriteHeader(http.StatusNoContent)
}

func (h *Handler) block(w http.ResponseWriter, r *http.Request) {
	var b struct {
		Name   string `json:"name"`
		Reason string `json:"reason"`
	}
	if err := readJSON(r, &b); err != nil {
		h.fail(w, err)
		return
	}
	if len(b.Reason) > maxReason {
		h.fail(w, badRequest("reason has %d bytes: at most %d are allowed", len(b.Reason), maxReason))
		return
	}
	if err := h.opts.Server.Block(Block{Name: b.Name, Reason: b.Reason}); err != nil {
		h.fail(w, err)
		return
	}
	h.log.Info("name blocked by operator", "name", b.Name, "reason", b.Reason, "remote", r.RemoteAddr)
	w.WriteHeader(http.StatusNoContent)
}

func (h *Handler) unblock(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if err := h.opts.Server.Unblock(name); err != nil {
		h.fail(w, err)
		return
	}
	h.log.Info("name unblocked by operator", "name", name, "remote", r.RemoteAddr)
	w.WriteHeader(http.StatusNoContent)
}

func (h *Handler) reload(w http.ResponseWriter, r *http.Request) {
	if err := h.opts.Server.Reload(); err != nil {
		writeError(w, &apiError{http.StatusUnprocessableEntity, "not-reloaded", err.Error()})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// readJSON reads the body of an order. Its type has to be said, which pages of
// other origins cannot do without asking.
func readJSON(r *http.Request, v any) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return &apiError{http.StatusUnsupportedMediaType, "content-type", "the body has to be application/json"}
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil && d.Decode(&struct{}{}) != io.EOF {
		err = errors.New("there is more behind the value")
	}
	var tooMuch *http.MaxBytesError
	switch {
	case errors.As(err, &tooMuch):
		return &apiError{http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("the body has more than %d bytes", tooMuch.Limit)}
	case err != nil:
		return badRequest("the body is no such JSON: %v", err)
	}
	return nil
}
