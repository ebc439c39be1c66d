package admin

import (
	"context"
	"net/http"
	"runtime/pprof"
	"runtime/trace"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Package net/http/pprof would do all this, and put its handlers on
// http.DefaultServeMux of every program that imports us.

const (
	defaultSeconds = 30
	maxSeconds     = 300
)

// profiles lists what there is.
func (h *Handler) profiles(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/debug/pprof/" {
		h.fail(w, ErrNotFound)
		return
	}
	names := []string{"profile", "trace"}
	for _, p := range pprof.Profiles() {
		names = append(names, p.Name())
	}
	slices.Sort(names)
	plain(w, http.StatusOK, strings.Join(names, "\n"))
}

// profile serves one profile as go tool pprof and go tool trace take them.
func (h *Handler) profile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("profile")
	seconds, err := number(r, "seconds", defaultSeconds, 1, maxSeconds)
	if err != nil {
		h.fail(w, err)
		return
	}
	debug, err := number(r, "debug", 0, 0, 2)
	if err != nil {
		h.fail(w, err)
		return
	}
	h.log.Info("profile taken by operator", "profile", name, "remote", r.RemoteAddr)
	w.Header().Set("Content-Type", "application/octet-stream")
	switch name {
	case "profile":
		if err := pprof.StartCPUProfile(w); err != nil {
			h.fail(w, &apiError{http.StatusConflict, "busy", "another profile is being taken"})
			return
		}
		wait(r.Context(), seconds)
		pprof.StopCPUProfile()
	case "trace":
		if err := trace.Start(w); err != nil {
			h.fail(w, &apiError{http.StatusConflict, "busy", "another trace is being taken"})
			return
		}
		wait(r.Context(), seconds)
		trace.Stop()
	default:
		p := pprof.Lookup(name)
		if p == nil {
			h.fail(w, ErrNotFound)
			return
		}
		if debug > 0 {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		}
		p.WriteTo(w, debug)
	}
}

// number returns a number of the query.
func number(r *http.Request, name string, def, low, high int) (int, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		return 0, badRequest("%s %.40q: %d to %d are allowed", name, s, low, high)
	}
	return n, nil
}

func wait(ctx context.Context, seconds int) {
	t := time.NewTimer(time.Duration(seconds) * time.Second)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
