package route

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"adit/tunnel"
)

// A Health is what is known of an upstream. The order is that in which they are
// preferred.
type Health uint8

const (
	Healthy Health = iota // also without a check
	Unknown               // it was not checked yet
	Unhealthy
)

// String returns the word for people and metrics.
func (h Health) String() string {
	switch h {
	case Healthy:
		return "healthy"
	case Unknown:
		return "unknown"
	}
	return "unhealthy"
}

// A checker asks one entry of a rule's member again and again. The check goes
// the way that visitors go, from the server through the tunnel to the upstream,
// and so finds out about all of it, in every dialect and whatever the agent is.
type checker struct {
	entry  *entry
	cancel context.CancelFunc

	// Guarded by the table's mutex.
	plan   *plan
	health Health
	streak int   // results in a row that say otherwise
	err    error // of the last check
}

// checkLocked begins and ends checks, so that there is one for each entry that
// the slot's rule leads to.
func (t *Table) checkLocked(s *slot) {
	p := s.plan
	if p.rule.Check == nil || t.closed {
		return
	}
	wanted := make(map[*entry]bool)
	for _, m := range p.members {
		t.entriesLocked(p, m.ID, func(e *entry) {
			wanted[e] = true
			if p.checks[e] != nil {
				return
			}
			ctx, cancel := context.WithCancel(context.Background())
			c := &checker{entry: e, cancel: cancel, plan: p, health: Unknown}
			p.checks[e] = c
			check, kind, host := *p.rule.Check, p.rule.Kind, hostOf(p.rule.Name)
			t.running.Go(func() { t.keepChecking(ctx, c, check, kind, host) })
		})
	}
	for e, c := range p.checks {
		if !wanted[e] {
			c.cancel()
			delete(p.checks, e)
		}
	}
}

// hostOf returns what a check asks an upstream for.
func hostOf(name string) string {
	if strings.HasPrefix(name, ":") || strings.HasPrefix(name, "/") {
		return "localhost"
	}
	return name
}

func (p *plan) stopLocked() {
	for e, c := range p.checks {
		c.cancel()
		delete(p.checks, e)
	}
}

// keepChecking checks until ctx ends.
func (t *Table) keepChecking(ctx context.Context, c *checker, check Check, kind Kind, host string) {
	for {
		began := time.Now()
		if isAvailable(c.entry.Tunnel) {
			one, cancel := context.WithTimeout(ctx, check.Timeout)
			err := check.ask(one, c.entry.Entry, kind, host)
			cancel()
			if ctx.Err() != nil {
				return
			}
			t.learn(c, check, err)
		}
		// Those that began together drift apart.
		wait := check.Interval - time.Since(began) - rand.N(check.Interval/10)
		pause := time.NewTimer(max(wait, minTimeout))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

// learn takes note of a check's result.
func (t *Table) learn(c *checker, check Check, err error) {
	t.mu.Lock()
	before := c.health
	c.err = err
	says, limit := Healthy, check.Healthy
	if err != nil {
		says, limit = Unhealthy, check.Unhealthy
	}
	switch {
	case says == before:
		c.streak = 0
	case before == Unknown:
		c.health = says
	default:
		if c.streak++; c.streak >= limit {
			c.health, c.streak = says, 0
		}
	}
	now, name := c.health, c.plan.rule.Name
	t.mu.Unlock()
	switch {
	case now == before:
	case now == Unhealthy:
		t.opts.Logger.Warn("upstream unhealthy", "route", name, "tunnel", string(c.entry.ID), "err", err)
	default:
		t.opts.Logger.Info("upstream healthy", "route", name, "tunnel", string(c.entry.ID))
	}
}

// ask does one check, which ctx bounds.
func (c Check) ask(ctx context.Context, e Entry, kind Kind, host string) error {
	info := tunnel.StreamInfo{Service: e.Service, Protocol: string(kind), Host: host}
	if c.HTTPPath == "" {
		return connect(ctx, e.Tunnel, info)
	}
	url := "http://" + host + c.HTTPPath
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return e.Tunnel.OpenStream(ctx, info)
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              new(http.Protocols),
	}
	defer tr.CloseIdleConnections()
	switch {
	case kind == TLS:
		url = "https" + strings.TrimPrefix(url, "http")
		tr.Protocols.SetHTTP1(true)
		// The question is whether it answers, and not who it is: that is
		// between visitors and the upstream, whose authorities the server does
		// not know. Nothing secret is sent.
		tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	case e.HTTP2:
		tr.Protocols.SetUnencryptedHTTP2(true)
	default:
		tr.Protocols.SetHTTP1(true)
	}
	var rt http.RoundTripper = tr
	if own, ok := e.Tunnel.(http.RoundTripper); ok {
		rt = own
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "adit health check")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode < c.FirstStatus || resp.StatusCode > c.LastStatus {
		return fmt.Errorf("status %d, want %s", resp.StatusCode, statusText(c.FirstStatus, c.LastStatus))
	}
	return nil
}

// settle is how long a connection has to last that counts as taken: some
// dialects tell of a refusal by closing it.
const settle = 200 * time.Millisecond

// connect sees whether the upstream takes a connection.
func connect(ctx context.Context, t tunnel.Tunnel, info tunnel.StreamInfo) error {
	conn, err := t.OpenStream(ctx, info)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil // the tunnel has no streams, and its session is what can be told
	}
	if err != nil {
		return err
	}
	defer tunnel.Abort(conn, tunnel.ResetCancelled, "")
	conn.SetReadDeadline(time.Now().Add(settle))
	var b [1]byte
	if n, err := conn.Read(b[:]); n == 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
		if err == io.EOF || err == nil {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("closed at once: %w", err)
	}
	return nil
}
