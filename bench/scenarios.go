package main

import (
	"fmt"
	"regexp"
	"slices"
	"time"
)

// sample is the outcome of one round.
type sample struct {
	m       map[string]float64
	fails   map[string]int
	samples []string
	notes   []string
}

func newSample() *sample { return &sample{m: map[string]float64{}, fails: map[string]int{}} }

func (s *sample) addFails(prefix string, t *tally) {
	for k, v := range t.fails {
		s.fails[prefix+k] += v
	}
	s.samples = append(s.samples, t.samples...)
}

type scenario struct {
	name     string
	kind     string // http, tcp, udp, or both of the first two
	variants []string
	primary  string // metric for the ratio
	higher   bool   // more is better
	own      bool   // starts its own instance for each subject and is run once
	run      func(in *instance, variant string, o *opts) *sample
}

var scenarios = []scenario{
	{name: "http-small", kind: "http", variants: []string{"c1", "c64"}, primary: "req_s", higher: true, run: func(in *instance, v string, o *opts) *sample { return runHTTPGets(in, v, 128, false, o) }},
	{name: "http-16k", kind: "http", variants: []string{"c1", "c64"}, primary: "req_s", higher: true, run: func(in *instance, v string, o *opts) *sample { return runHTTPGets(in, v, 16<<10, false, o) }},
	{name: "http-newconn", kind: "http", variants: []string{"c1", "c16"}, primary: "req_s", higher: true, run: func(in *instance, v string, o *opts) *sample { return runHTTPGets(in, v, 128, true, o) }},
	{name: "http-upload", kind: "http", variants: []string{"c1", "c4"}, primary: "MB_s", higher: true, run: func(in *instance, v string, o *opts) *sample { return runHTTPBulk(in, v, true, o) }},
	{name: "http-download", kind: "http", variants: []string{"c1", "c8"}, primary: "MB_s", higher: true, run: func(in *instance, v string, o *opts) *sample { return runHTTPBulk(in, v, false, o) }},
	{name: "tcp-bulk", kind: "tcp", variants: []string{"down-c1", "down-c8", "up-c1", "up-c8"}, primary: "MB_s", higher: true, run: runTCPBulk},
	{name: "tcp-rr", kind: "tcp", variants: []string{"c1", "c64"}, primary: "req_s", higher: true, run: runTCPRR},
	{name: "tcp-connect", kind: "tcp", variants: []string{"c1", "c16"}, primary: "req_s", higher: true, run: runTCPConnect},
	{name: "udp-large", kind: "udp", variants: []string{"w16-c1", "w16-c4"}, primary: "req_s", higher: true, run: func(in *instance, v string, o *opts) *sample { return runUDP(in, v, 1400, o) }},
	{name: "udp-small", kind: "udp", variants: []string{"w1-c1", "w1-c128"}, primary: "req_s", higher: true, run: func(in *instance, v string, o *opts) *sample { return runUDP(in, v, 64, o) }},
	{name: "fairness", kind: "both", variants: []string{"all"}, primary: "bulk_p99_ms", own: true, run: runFairness},
	{name: "idle", kind: "both", variants: []string{"n"}, primary: "server_rss_per_tunnel_KB", own: true, run: runIdle},
	{name: "connect-storm", kind: "both", variants: []string{"n"}, primary: "back_99_s", own: true, run: runStorm},
	{name: "reconnect", kind: "both", variants: []string{"kill-client", "kill-server"}, primary: "gap_ms", own: true, run: runReconnect},
}

var digits = regexp.MustCompile(`[0-9]+`)

// allows reports whether v is a variant of s, or one with another number.
func (s scenario) allows(v string) bool {
	shape := func(x string) string { return digits.ReplaceAllString(x, "0") }
	return slices.ContainsFunc(s.variants, func(x string) bool { return shape(x) == shape(v) })
}

// conns is the number behind the last c of a variant, 1 without one.
func conns(v string) int {
	n := 1
	for i := len(v) - 1; i >= 0; i-- {
		if v[i] == 'c' {
			fmt.Sscanf(v[i+1:], "%d", &n)
			break
		}
	}
	return n
}

// measured wraps a load with CPU and memory readings of everything involved.
func measured(in *instance, s *sample, f func() (tally, time.Duration)) tally {
	in.resetHWM()
	a := in.snap()
	t, d := f()
	b := in.snap()
	wall := b.at.Sub(a.at).Seconds()
	sc, cc := b.server.cpu-a.server.cpu, b.client.cpu-a.client.cpu
	s.m["gen_cores"] = (b.self - a.self) / wall
	s.m["backend_cores"] = (b.backend - a.backend) / wall
	s.m["server_rss_MB"] = float64(b.server.hwm) / 1e6
	s.m["client_rss_MB"] = float64(b.client.hwm) / 1e6
	ended := false
	for _, p := range in.procs() {
		ended = ended || !p.alive()
	}
	if ended || sc < 0 || cc < 0 { // what it used went with it
		s.fails["process-ended"]++
	} else {
		s.m["server_cpu_s"] = sc
		s.m["client_cpu_s"] = cc
		s.m["cpu_cores"] = (sc + cc) / wall
		if t.ok > 0 {
			s.m["cpu_s_per_10k"] = (sc + cc) / float64(t.ok) * 1e4
		}
		if t.bytes > 0 {
			s.m["cpu_s_per_GB"] = (sc + cc) / (float64(t.bytes) / 1e9)
		}
	}
	s.m["req_s"] = float64(t.ok) / d.Seconds()
	s.m["MB_s"] = float64(t.bytes) / 1e6 / d.Seconds()
	s.m["p50_us"] = pct(t.lat, .5) / 1e3
	s.m["p99_us"] = pct(t.lat, .99) / 1e3
	s.m["p999_us"] = pct(t.lat, .999) / 1e3
	if t.stale > 0 {
		s.m["stale_conns"] = float64(t.stale)
	}
	s.addFails("", &t)
	return t
}

func runHTTPGets(in *instance, v string, size int64, newConn bool, o *opts) *sample {
	s := newSample()
	httpGets(in.target, conns(v), size, 200*time.Millisecond, newConn, o.timeout) // warm
	measured(in, s, func() (tally, time.Duration) {
		t0 := time.Now()
		t := httpGets(in.target, conns(v), size, o.dur, newConn, o.timeout)
		return t, time.Since(t0)
	})
	delete(s.m, "MB_s")
	delete(s.m, "cpu_s_per_GB")
	return s
}

func runHTTPBulk(in *instance, v string, up bool, o *opts) *sample {
	s := newSample()
	size := o.bulkSize
	if up {
		size = o.upSize
	}
	if m := in.sub.MaxBody; m > 0 && size > m {
		size = m
		s.notes = append(s.notes, fmt.Sprintf("bodies of %d bytes (limit of the program)", m))
	}
	measured(in, s, func() (tally, time.Duration) {
		return httpBulk(in.target, conns(v), size, o.dur, up, 60*time.Second)
	})
	delete(s.m, "req_s")
	delete(s.m, "cpu_s_per_10k")
	return s
}

func runTCPBulk(in *instance, v string, o *opts) *sample {
	s := newSample()
	measured(in, s, func() (tally, time.Duration) {
		return tcpBulk(in.target, conns(v), o.dur, v[:2] == "up"), o.dur
	})
	for _, k := range []string{"req_s", "cpu_s_per_10k", "p50_us", "p99_us", "p999_us"} {
		delete(s.m, k)
	}
	return s
}

func runTCPRR(in *instance, v string, o *opts) *sample {
	s := newSample()
	measured(in, s, func() (tally, time.Duration) {
		return tcpRR(in.target, conns(v), o.dur, o.timeout), o.dur
	})
	return s
}

func runTCPConnect(in *instance, v string, o *opts) *sample {
	s := newSample()
	measured(in, s, func() (tally, time.Duration) {
		t0 := time.Now()
		t := tcpConnects(in.target, conns(v), o.dur, o.timeout)
		return t, time.Since(t0)
	})
	return s
}
