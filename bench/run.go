package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// Result is one JSON line.
type Result struct {
	Time     string               `json:"time"`
	Scenario string               `json:"scenario"`
	Variant  string               `json:"variant"`
	Subject  string               `json:"subject"`
	Kind     string               `json:"kind"`
	Cond     string               `json:"cond"` // loopback, or the emulated link
	Rounds   int                  `json:"rounds"`
	Load     string               `json:"loadavg"`
	Metrics  map[string]float64   `json:"metrics"` // medians over the rounds
	Raw      map[string][]float64 `json:"raw,omitempty"`
	Fails    map[string]int       `json:"fails,omitempty"`
	Samples  []string             `json:"fail_samples,omitempty"`
	Notes    []string             `json:"notes,omitempty"`
}

func runMain(args []string) int {
	var c common
	fs := flag.NewFlagSet("run", flag.ExitOnError)
	c.flags(fs)
	scen := fs.String("scenario", "http-small", "scenarios, comma separated, or all; NAME/VARIANT picks one variant")
	subj := fs.String("subject", "", "subjects, comma separated (names, globs or files; default: all in -subjects)")
	out := fs.String("out", "", "append the JSON lines to this file too")
	yh := fs.String("yardstick-http", "nginx-http", "yardstick of the HTTP table")
	yt := fs.String("yardstick-tcp", "nginx-tcp", "yardstick of the TCP table")
	yu := fs.String("yardstick-udp", "nginx-udp", "yardstick of the UDP table")
	quiet := fs.Bool("quiet", false, "no JSON lines on standard output")
	fs.Parse(args)
	if err := c.check(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	raiseNoFile()
	if c.wan != "" && !c.inNS {
		return wanRun("run", c.wan, args)
	}
	var names []string
	if *subj != "" {
		names = strings.Split(*subj, ",")
	}
	subs, err := loadSubjects(c.dir, names)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	plan, err := pickScenarios(*scen)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	down, err := c.up()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer down()
	var f *os.File
	if *out != "" {
		if f, err = os.OpenFile(*out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		defer f.Close()
	}
	var results []Result
	emit := func(r Result) {
		results = append(results, r)
		b, err := json.Marshal(r)
		if err != nil { // a figure that is no number, such as 0/0
			logf("%s/%s %s: %v", r.Scenario, r.Variant, r.Subject, err)
			return
		}
		b = append(b, '\n')
		if !*quiet {
			os.Stdout.Write(b)
		}
		if f != nil {
			if _, err := f.Write(b); err != nil {
				logf("%v", err)
			}
		}
	}
	c.runPlan(plan, subs, emit)
	fmt.Println()
	writeTables(os.Stdout, results, map[string]string{"http": *yh, "tcp": *yt, "udp": *yu})
	return 0
}

type planned struct {
	sc       scenario
	variants []string
}

func pickScenarios(list string) ([]planned, error) {
	var out []planned
	if list == "all" {
		for _, s := range scenarios {
			out = append(out, planned{s, s.variants})
		}
		return out, nil
	}
	for _, n := range strings.Split(list, ",") {
		name, variant, _ := strings.Cut(strings.TrimSpace(n), "/")
		found := false
		for _, s := range scenarios {
			if s.name != name {
				continue
			}
			found = true
			v := s.variants
			if variant != "" {
				if !s.allows(variant) {
					return nil, fmt.Errorf("scenario %s has no variant %q, only such as %s", s.name, variant, strings.Join(s.variants, ", "))
				}
				v = []string{variant}
			}
			out = append(out, planned{s, v})
		}
		if !found {
			return nil, fmt.Errorf("no scenario %q (see: tunnelbench list)", name)
		}
	}
	return out, nil
}

func logf(format string, a ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", a...)
}

// runPlan runs the scenarios. Steady ones share one running instance of each
// subject and go round by round over all of them; the order turns with each
// round, so that a busy moment of the machine does not fall on one subject.
func (c *common) runPlan(plan []planned, subs []*Subject, emit func(Result)) {
	running := map[*Subject]*instance{}
	stopAll := func() {
		var wg sync.WaitGroup
		for _, in := range running {
			wg.Add(1)
			go func() { defer wg.Done(); in.stop() }()
		}
		wg.Wait()
		clear(running)
	}
	defer stopAll()
	startErr := map[*Subject]error{}
	get := func(s *Subject) *instance {
		if in := running[s]; in != nil {
			if (in.server == nil || in.server.alive()) && (in.client == nil || in.client.alive()) {
				return in
			}
			logf("%s: a process has ended (server: %v), starting anew", s.Name, in.server == nil || in.server.alive())
			in.stop()
			delete(running, s)
		}
		if startErr[s] != nil {
			return nil
		}
		in, err := newInstance(s, &c.env)
		if err == nil {
			err = in.start()
		}
		if err != nil {
			logf("%s: cannot start: %v", s.Name, err)
			if in != nil {
				in.stop()
			}
			startErr[s] = err
			return nil
		}
		running[s] = in
		return in
	}
	for _, p := range plan {
		for _, v := range p.variants {
			var list []*Subject
			for _, s := range subs {
				if (p.sc.kind == "both" || p.sc.kind == s.Kind || c.overTCP && p.sc.kind == "http") && !s.skips(p.sc.name) && !s.skips(p.sc.name+"/"+v) {
					list = append(list, s)
				}
			}
			if len(list) == 0 {
				continue
			}
			if p.sc.own || !c.keep {
				stopAll()
			}
			if p.sc.own {
				for _, s := range list {
					logf("%s/%s %s", p.sc.name, v, s.Name)
					c.runOwn(p.sc, v, s, emit)
				}
				continue
			}
			got := map[*Subject][]*sample{}
			for r := 0; r < c.rounds; r++ {
				for k := range list {
					s := list[(k+r)%len(list)]
					in := get(s)
					if in == nil {
						continue
					}
					sm := p.sc.run(in, v, &c.o)
					in.noteMemory(sm, c.maxRSS)
					got[s] = append(got[s], sm)
					if n := sumMap(sm.fails); n > 0 {
						logf("%s/%s %s round %d: failures %v %v", p.sc.name, v, s.Name, r, sm.fails, sm.samples)
						// does it still work at all?
						if in.probe(in.target, 5*time.Second) != nil {
							logf("%s: no longer answers, starting anew", s.Name)
							sm.notes = append(sm.notes, "no longer answered after this round and was started anew")
							in.stop()
							delete(running, s)
						}
					}
				}
			}
			for _, s := range list {
				res := c.result(p.sc, v, s, got[s])
				if startErr[s] != nil {
					res.Fails = map[string]int{"start": 1}
					res.Samples = []string{startErr[s].Error()}
				}
				emit(res)
			}
			logf("done %s/%s", p.sc.name, v)
		}
	}
}

func sumMap(m map[string]int) int {
	n := 0
	for _, v := range m {
		n += v
	}
	return n
}

func (c *common) runOwn(sc scenario, v string, s *Subject, emit func(Result)) {
	in, err := newInstance(s, &c.env)
	if err != nil {
		logf("%s: %v", s.Name, err)
		return
	}
	defer in.stop()
	switch sc.name {
	case "idle":
		sm, _ := runFleet(in, &c.o, false)
		emit(c.result(sc, v, s, []*sample{sm}))
		return
	case "connect-storm": // one start serves both scenarios
		idle, st := runFleet(in, &c.o, true)
		for _, x := range scenarios {
			if x.name == "idle" {
				emit(c.result(x, v, s, []*sample{idle}))
			}
		}
		emit(c.result(sc, v, s, []*sample{st}))
		return
	}
	if err := in.start(); err != nil {
		logf("%s: cannot start: %v", s.Name, err)
		sm := newSample()
		sm.fails["start"] = 1
		sm.samples = append(sm.samples, err.Error())
		emit(c.result(sc, v, s, []*sample{sm}))
		return
	}
	sm := sc.run(in, v, &c.o)
	in.noteMemory(sm, c.maxRSS)
	emit(c.result(sc, v, s, []*sample{sm}))
}

func (c *common) result(sc scenario, v string, s *Subject, sms []*sample) Result {
	r := Result{Time: time.Now().UTC().Format(time.RFC3339), Scenario: sc.name, Variant: v, Subject: s.Name, Kind: s.Kind,
		Cond: c.cond(), Rounds: len(sms), Load: loadAvg(), Metrics: map[string]float64{}, Raw: map[string][]float64{}, Fails: map[string]int{}}
	seen := map[string]bool{}
	for _, sm := range sms {
		for k, x := range sm.m {
			r.Raw[k] = append(r.Raw[k], round4(x))
		}
		for k, n := range sm.fails {
			r.Fails[k] += n
		}
		for _, x := range sm.samples {
			if len(r.Samples) < 4 && !seen[x] {
				seen[x] = true
				r.Samples = append(r.Samples, x)
			}
		}
		for _, x := range sm.notes {
			if !seen[x] {
				seen[x] = true
				r.Notes = append(r.Notes, x)
			}
		}
	}
	for k, xs := range r.Raw {
		r.Metrics[k] = median(xs)
	}
	return r
}
