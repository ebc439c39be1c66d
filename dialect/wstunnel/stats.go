package wstunnel

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// serveStats is /_stats. Who is not on this machine, or was forwarded, sees the
// number of tunnels alone: the header fields that say where a caller comes from
// are the caller's own word.
func (s *Server) serveStats(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	tunnels := make([]*Tunnel, 0, len(s.tunnels))
	for _, t := range s.tunnels {
		tunnels = append(tunnels, t)
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "tunnels=%d\n", len(tunnels))
	_, xff := r.Header["X-Forwarded-For"]
	_, forwarded := r.Header["Forwarded"]
	_, real := r.Header["X-Real-Ip"]
	if !remoteOf(r.RemoteAddr).IsLoopback() || xff || forwarded || real {
		io.WriteString(w, "More stats available when called from localhost...\n")
		return
	}
	io.WriteString(w, "\n")
	pending, dead := 0, 0
	for i, t := range tunnels {
		t.mu.Lock()
		p, label, remote, name, idle := t.pending, t.label, t.remote, t.name, t.silenceLocked()
		caller := ""
		if t.newest != nil {
			caller = t.newest.caller
		}
		t.mu.Unlock()
		pending += p
		if idle > time.Minute {
			dead++
		}
		fmt.Fprintf(w, "tunnel%02d_token=%s\ntunnel%02d_req_pending=%d\ntunnel%02d_tun_addr=%s\n", i, label, i, p, i, remote)
		if name != "" {
			fmt.Fprintf(w, "tunnel%02d_tun_dns=%s\n", i, name)
		}
		fmt.Fprintf(w, "tunnel%02d_idle_secs=%.1f\n", i, idle.Seconds())
		if caller != "" {
			fmt.Fprintf(w, "tunnel%02d_cli_addr=%s\n", i, caller)
		}
		io.WriteString(w, "\n")
	}
	fmt.Fprintf(w, "req_pending=%d\ndead_tunnels=%d\n", pending, dead)
}

// silenceLocked returns how long nothing was heard of a client. A session sees
// to that by itself, and loses its connection when it is too long.
func (t *Tunnel) silenceLocked() time.Duration {
	for _, l := range t.links {
		if nl, ok := l.(*nativeLink); ok && nl.s.Attached() {
			return 0
		}
	}
	return time.Since(t.seen)
}

const (
	lookupTime = 5 * time.Second
	maxLookups = 16 // at a time
	maxName    = 255
)

// lookUp finds out the name of a client's address, as far as somebody wants to
// know and few others are being looked up.
func (s *Server) lookUp(t *Tunnel, r *http.Request) {
	addr := remoteOf(r.RemoteAddr)
	if via, err := netip.ParseAddr(strings.TrimSpace(r.Header.Get("X-Forwarded-For"))); err == nil {
		addr = via
	}
	if s.opts.LookupAddr == nil || !addr.IsValid() || addr.IsLoopback() {
		return
	}
	select {
	case s.lookups <- struct{}{}:
	default:
		return
	}
	s.running.Go(func() {
		defer func() { <-s.lookups }()
		ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
		defer cancel()
		names, err := s.opts.LookupAddr(ctx, addr.String())
		if err != nil || len(names) == 0 {
			return
		}
		name := strings.Map(func(r rune) rune {
			if r <= ' ' || r >= 0x7f {
				return -1
			}
			return r
		}, names[0][:min(len(names[0]), maxName)])
		t.mu.Lock()
		defer t.mu.Unlock()
		t.name = name
	})
}
