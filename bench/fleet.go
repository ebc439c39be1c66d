package main

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// fleet is one server with many clients.
type fleet struct {
	in      *instance
	tuns    []tunnelVars
	targets []target
	n       int
	perProc int
	cmds    []func() (*proc, error)
}

func startFleet(in *instance, o *opts, s *sample) (*fleet, error) {
	m := in.sub.Many
	if m == nil {
		m = &Many{}
	}
	n := m.N
	if n == 0 {
		n = 1000
	}
	if o.n > 0 && (o.n < n || m.All) {
		n = o.n
	}
	per := m.PerProcess
	if per == 0 {
		per = 1
	}
	if m.All {
		per = n
	}
	f := &fleet{in: in, n: n, perProc: per}
	if err := in.prepare(); err != nil {
		return nil, err
	}
	if err := in.startServer(); err != nil {
		return nil, err
	}
	time.Sleep(time.Second)
	if in.server != nil {
		s.m["server_rss_empty_MB"] = float64(in.snap().server.rss) / 1e6
	}
	cl := in.sub.Client
	if m.Client.Cmd != "" {
		cl = m.Client
	}
	for i := 0; i < n; i++ {
		tv, err := in.newTunnel(i)
		if err != nil {
			return nil, err
		}
		t, err := in.targetFor(tv)
		if err != nil {
			return nil, err
		}
		f.tuns = append(f.tuns, tv)
		f.targets = append(f.targets, t)
	}
	files := m.Files
	if files == nil {
		files = in.sub.Files
	}
	for i := 0; i < n; i += per {
		j := min(i+per, n)
		d := in.data(f.tuns[i])
		d.Tunnels = f.tuns[i:j]
		f.cmds = append(f.cmds, func() (*proc, error) {
			if err := in.writeFiles(files, d); err != nil {
				return nil, err
			}
			argv, env, err := in.argv(cl, "client", d)
			if err != nil {
				return nil, err
			}
			return startProc("client", argv, env, in.work, filepath.Join(in.work, fmt.Sprintf("client%d.log", i)))
		})
	}
	for k, c := range f.cmds {
		p, err := c()
		if err != nil {
			return nil, err
		}
		in.many = append(in.many, p)
		if k%8 == 7 {
			time.Sleep(150 * time.Millisecond) // two cores: do not start all at one moment
		}
	}
	if err := in.runSetup(15 * time.Second); err != nil {
		return nil, err
	}
	return f, nil
}

// waitUp polls the tunnels that are not up yet until all are, or max is over.
// It returns the times (since t0) at which they were first seen working.
func (f *fleet) waitUp(t0 time.Time, max time.Duration, each func()) []time.Duration {
	up := make([]time.Duration, f.n)
	var upN atomic.Int64
	for time.Since(t0) < max && int(upN.Load()) < f.n {
		if each != nil {
			each()
		}
		round := time.Now()
		sem := make(chan struct{}, 8*runtime.NumCPU())
		var wg sync.WaitGroup
		for i := range f.targets {
			if up[i] != 0 {
				continue
			}
			sem <- struct{}{}
			wg.Add(1)
			go func() {
				defer func() { <-sem; wg.Done() }()
				if f.in.probe(f.targets[i], 1500*time.Millisecond) == nil {
					up[i] = time.Since(t0)
					upN.Add(1)
				}
			}()
		}
		wg.Wait()
		if d := time.Since(round); d < 200*time.Millisecond {
			time.Sleep(200*time.Millisecond - d)
		}
	}
	var out []time.Duration
	for _, d := range up {
		if d != 0 {
			out = append(out, d)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

func (f *fleet) respawnDead() int {
	n := 0
	for k, p := range f.in.many {
		if !p.alive() {
			live.remove(p)
			if np, err := f.cmds[k](); err == nil {
				f.in.many[k] = np
				n++
			}
		}
	}
	return n
}

func runIdle(in *instance, v string, o *opts) *sample {
	s, _ := runFleet(in, o, false)
	return s
}

func runStorm(in *instance, v string, o *opts) *sample {
	_, s := runFleet(in, o, true)
	return s
}

// runFleet measures the idle fleet and, with storm, the return of all clients
// after the server was killed and started again.
func runFleet(in *instance, o *opts, storm bool) (idle, st *sample) {
	idle, st = newSample(), newSample()
	if in.sub.Many == nil && in.sub.Client.Cmd == "" && in.env.cmdFlags["client"] == "" {
		idle.notes = append(idle.notes, "no client")
		return idle, st
	}
	t0 := time.Now()
	f, err := startFleet(in, o, idle)
	if err != nil {
		idle.fails["start"]++
		idle.samples = append(idle.samples, err.Error())
		*st = *idle
		return
	}
	up := f.waitUp(t0, 90*time.Second, nil)
	idle.m["n"] = float64(f.n)
	idle.m["per_process"] = float64(f.perProc)
	idle.m["up"] = float64(len(up))
	idle.m["start_s"] = time.Since(t0).Seconds()
	if len(up) < f.n {
		idle.fails["not-connected"] += f.n - len(up)
		idle.samples = append(idle.samples, tail(in.many[len(in.many)-1].logPath, 200))
	}
	time.Sleep(o.settle)
	a := in.snap()
	time.Sleep(o.idleFor)
	b := in.snap()
	minutes := b.at.Sub(a.at).Minutes()
	if b.server.procs > 1 && in.server != nil {
		idle.m["server_pss_MB"] = float64(in.server.pssIn(childrenMap())) / 1e6
		idle.notes = append(idle.notes, fmt.Sprintf("server has %d processes; with shared pages counted once it holds %.0f MB", b.server.procs, idle.m["server_pss_MB"]))
	}
	idle.m["server_rss_MB"] = float64(b.server.rss) / 1e6
	idle.m["server_rss_per_tunnel_KB"] = (float64(b.server.rss)/1e3 - idle.m["server_rss_empty_MB"]*1e3) / float64(f.n)
	idle.m["client_rss_per_tunnel_MB"] = float64(b.client.rss) / 1e6 / float64(f.n)
	idle.m["client_rss_per_process_MB"] = float64(b.client.rss) / 1e6 / float64(len(in.many))
	idle.m["server_cpu_s_per_min"] = (b.server.cpu - a.server.cpu) / minutes
	idle.m["clients_cpu_s_per_min"] = (b.client.cpu - a.client.cpu) / minutes
	if !storm {
		return
	}
	st.m["n"] = float64(f.n)
	t0 = time.Now()
	in.server.kill9()
	if err := in.startServer(); err != nil {
		st.fails["restart"]++
		st.samples = append(st.samples, err.Error())
		return
	}
	var mu sync.Mutex
	stop := make(chan struct{})
	var peak float64
	var wg sync.WaitGroup
	wg.Add(1)
	go func() { // peak of the server's CPU in windows of half a second
		defer wg.Done()
		last := in.server.usageIn(childrenMap()).cpu
		lt := time.Now()
		for {
			select {
			case <-stop:
				return
			case <-time.After(500 * time.Millisecond):
			}
			c := in.server.usageIn(childrenMap()).cpu
			mu.Lock()
			if r := (c - last) / time.Since(lt).Seconds(); r > peak {
				peak = r
			}
			mu.Unlock()
			last, lt = c, time.Now()
		}
	}()
	in.runSetup(20 * time.Second)
	respawned := 0
	lastRespawn := time.Now()
	up = f.waitUp(t0, o.stormMax, func() {
		if time.Since(lastRespawn) > time.Second {
			lastRespawn = time.Now()
			respawned += f.respawnDead()
		}
	})
	u := in.server.usageIn(childrenMap())
	close(stop)
	wg.Wait()
	at := func(q float64) float64 {
		k := int(q*float64(f.n)+0.999999) - 1
		if k < 0 {
			k = 0
		}
		if k >= len(up) {
			return -1
		}
		return up[k].Seconds()
	}
	st.m["back_50_s"], st.m["back_99_s"], st.m["back_100_s"] = at(.5), at(.99), at(1)
	st.m["back"] = float64(len(up))
	st.m["server_cpu_s"] = u.cpu
	st.m["server_peak_cores"] = peak
	st.m["server_peak_rss_MB"] = float64(u.hwm) / 1e6
	if respawned > 0 {
		st.m["respawned"] = float64(respawned)
		st.notes = append(st.notes, fmt.Sprintf("%d clients had ended and were started again by the harness (1 s)", respawned))
	}
	if len(up) < f.n {
		st.fails["not-back"] += f.n - len(up)
		st.samples = append(st.samples, tail(in.many[len(in.many)-1].logPath, 200))
	}
	return
}
