package ingress

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// A mounted request is one that came through ServeHTTP from a server of somebody
// else's.
type mounted struct {
	cancel context.CancelFunc

	mu sync.Mutex // held while w is used from outside of the handler
	w  http.ResponseWriter
}

// abort ends the request, whatever it waits for.
func (m *mounted) abort() {
	m.cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.w != nil {
		rc := http.NewResponseController(m.w)
		rc.SetReadDeadline(time.Unix(1, 0))
		rc.SetWriteDeadline(time.Unix(1, 0))
	}
}

// mountKey is the context key of the path that ServeHTTP took off a request's.
type mountKey struct{}

// ServeHTTP is the ingress for requests that another server has read, one of
// package net/http for instance. It asks Own, as Serve does. Each request counts
// as a visitor, and Shutdown and Close are for them too. If HTTPOptions.Mount is
// set, requests outside of it are answered with 404.
func (h *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	m := &mounted{cancel: cancel, w: w}
	if p := h.enter(m); p != nil {
		h.writeProblem(w, r, p, r.Host)
		return
	}
	defer h.leave(m)
	if h.parting() && r.Header.Get("Upgrade") == "" {
		w.Header().Set("Connection", "close")
	}
	if mount := h.opts.Mount; mount != "" {
		u := below(r.URL, mount)
		if u == nil {
			h.writeProblem(w, r, probNotFound, r.Host)
			return
		}
		ctx = context.WithValue(ctx, mountKey{}, mount)
		r = r.WithContext(ctx)
		r.URL = u
	} else {
		r = r.WithContext(ctx)
	}
	h.inner.serve(w, r)
}

// below returns u as it is seen below mount, and nil if it is not.
func below(u *url.URL, mount string) *url.URL {
	path, ok := strings.CutPrefix(u.Path, mount)
	raw, rawOK := strings.CutPrefix(u.RawPath, mount)
	if !ok || !strings.HasPrefix(path, "/") || u.RawPath != "" && !rawOK {
		return nil
	}
	b := *u
	b.Path, b.RawPath = path, raw
	return &b
}

// mountOf returns what ServeHTTP has taken off the request's path.
func mountOf(r *http.Request) string {
	mount, _ := r.Context().Value(mountKey{}).(string)
	return mount
}

// enter takes in a request, or says why it cannot.
func (h *HTTP) enter(m *mounted) *problem {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed || h.draining.Load():
		return probShuttingDown
	case h.count >= h.opts.MaxVisitors:
		h.counters.turnedAway.Add(1)
		return probVisitors
	}
	h.mounts[m] = struct{}{}
	h.count++
	h.wg.Add(1)
	h.startSweepLocked()
	return nil
}

// leave is the opposite of enter, at the end of the handler.
func (h *HTTP) leave(m *mounted) {
	m.mu.Lock()
	m.w = nil
	m.mu.Unlock()
	h.mu.Lock()
	delete(h.mounts, m)
	h.mu.Unlock()
	h.uncount()
	h.wg.Done()
}

// abortMounted ends all requests that came through ServeHTTP.
func (h *HTTP) abortMounted() {
	h.mu.Lock()
	all := make([]*mounted, 0, len(h.mounts))
	for m := range h.mounts {
		all = append(all, m)
	}
	h.mu.Unlock()
	for _, m := range all {
		m.abort()
	}
}
