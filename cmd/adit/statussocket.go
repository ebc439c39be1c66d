package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"adit/internal/screen"
	"adit/internal/usersocket"
)

// Agents tell adit status how they are through sockets, one for each process,
// in a folder that is their user's alone. Whoever connects gets a report as
// JSON, and the end.
const (
	reportPattern = "agent-*.sock"
	reportTimeout = 2 * time.Second
	maxReport     = 4 << 20 // bytes
	maxSocketPath = 107     // bytes, of Linux; others take a little less

	// staleAfter is how old a socket is before one that nobody answers at is
	// removed: a new one is there for a moment before it is listened to.
	staleAfter = 10 * time.Second
)

// An agentReport is what an agent's process tells of itself.
type agentReport struct {
	PID        int            `json:"pid"`
	Version    string         `json:"version"`
	Started    time.Time      `json:"started_at"`
	Server     string         `json:"server"`
	State      screen.Phase   `json:"state"`
	Since      time.Time      `json:"since"` // of the state
	Reason     string         `json:"reason,omitempty"`
	Retry      time.Time      `json:"retry_at,omitzero"`
	RoundTrip  float64        `json:"round_trip_seconds,omitempty"` // 0 if it is not known
	Carrier    string         `json:"carrier,omitempty"`            // by which it is connected
	Streams    int            `json:"streams"`                      // open ones
	Opened     uint64         `json:"streams_opened"`
	Reconnects int            `json:"reconnects"`
	Up         int            `json:"connections,omitempty"`        // that are up, of
	Wanted     int            `json:"connections_wanted,omitempty"` // if agents have more than one
	Tunnels    []tunnelReport `json:"tunnels"`
}

type tunnelReport struct {
	ID       string   `json:"id"`
	Kind     string   `json:"kind"`
	URLs     []string `json:"urls"`
	Upstream string   `json:"upstream"`
	Answers  *bool    `json:"upstream_answers,omitempty"` // nil if it is not known
	Problem  string   `json:"problem,omitempty"`
}

// report is what b tells of this process.
func (b *board) report() agentReport {
	v := b.view()
	b.mu.Lock()
	defer b.mu.Unlock()
	r := agentReport{
		PID: os.Getpid(), Version: versionString(), Started: b.started, Server: b.server,
		State: v.Phase, Since: b.started, Reason: v.Reason, Retry: v.Retry, RoundTrip: v.RoundTrip.Seconds(), Carrier: v.Carrier,
		Streams: v.Streams.Open, Opened: v.Streams.Total, Reconnects: v.Reconnects,
		Tunnels: []tunnelReport{},
	}
	if s := b.worstLocked(); s != nil {
		r.Since = s.since
	}
	for _, s := range b.agents {
		r.Up += s.connections
		r.Wanted += s.wanted
		for i, t := range s.tunnels {
			known := b.tunnelLocked(s, i)
			tr := tunnelReport{ID: string(t.ID), Kind: string(t.Kind), URLs: slices.Clone(known.URLs), Upstream: known.Upstream, Problem: known.Problem}
			if tr.URLs == nil {
				tr.URLs = []string{}
			}
			if known.Health != screen.Unknown {
				answers := known.Health == screen.Up
				tr.Answers = &answers
			}
			r.Tunnels = append(r.Tunnels, tr)
		}
	}
	return r
}

// reportDir is where the sockets of this user's agents are.
func (p *program) reportDir() string {
	if dir, _, _ := strings.Cut(p.getenv("RUNTIME_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if dir := p.getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "adit")
	}
	return filepath.Join(p.dataDir(), "agents")
}

// serveReports tells of b whoever asks, until stop is called. An agent does its
// work without it just as well, so that what fails is logged and no more.
func (p *program) serveReports(b *board, log *slog.Logger) (stop func()) {
	ln, err := listenReports(p.reportDir())
	if err != nil {
		log.Debug("adit status will not see this agent", "err", err)
		return func() {}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(100 * time.Millisecond) // no more file descriptors, for instance
				continue
			}
			c.SetDeadline(time.Now().Add(reportTimeout))
			json.NewEncoder(c).Encode(b.report())
			c.Close()
		}
	})
	return func() {
		ln.Close() // removes the socket
		wg.Wait()
	}
}

func listenReports(dir string) (net.Listener, error) {
	path := filepath.Join(dir, strings.Replace(reportPattern, "*", fmt.Sprintf("%d-%04x", os.Getpid(), rand.N(0x10000)), 1))
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("%s: a socket's path has at most %d bytes", path, maxSocketPath)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	removeStaleReports(dir)
	return usersocket.Listen(path)
}

// removeStaleReports removes the sockets that processes left behind which were
// ended at once.
func removeStaleReports(dir string) {
	paths, _ := filepath.Glob(filepath.Join(dir, reportPattern))
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil || info.Mode().Type() != fs.ModeSocket || time.Since(info.ModTime()) < staleAfter {
			continue
		}
		c, err := net.DialTimeout("unix", path, reportTimeout)
		if err == nil {
			c.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(path)
		}
	}
}
