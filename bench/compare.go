package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

// compareMain measures two subjects in turns and checks the ratio.
func compareMain(args []string) int {
	var c common
	fs := flag.NewFlagSet("compare", flag.ExitOnError)
	c.flags(fs)
	a := fs.String("a", "", "subject under test (name or file)")
	b := fs.String("b", "", "subject to compare with")
	scen := fs.String("scenario", "", "scenario, or scenario/variant")
	variant := fs.String("variant", "", "variant (default: the first one)")
	metric := fs.String("metric", "", "metric to compare (default: the main one of the scenario)")
	minRatio := fs.Float64("min-ratio", 0, "exit 1 when the ratio is below; the ratio is always such that more is better for A")
	maxCPU := fs.Float64("max-cpu", 0, "exit 1 when A needs more than this multiple of B's CPU for the same work")
	fs.Parse(args)
	if err := c.check(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	raiseNoFile()
	if *a == "" || *b == "" || *scen == "" {
		fmt.Fprintln(os.Stderr, "compare needs -a, -b and -scenario")
		return 2
	}
	if c.wan != "" && !c.inNS {
		return wanRun("compare", c.wan, args)
	}
	subs, err := loadSubjects(c.dir, []string{*a, *b})
	if err == nil && len(subs) != 2 {
		err = fmt.Errorf("%d subjects found, want 2", len(subs))
	}
	var plan []planned
	if err == nil && *variant != "" {
		*scen = strings.TrimSuffix(*scen, "/"+*variant) + "/" + *variant
	}
	if err == nil {
		plan, err = pickScenarios(*scen)
	}
	if err == nil && len(plan) != 1 {
		err = fmt.Errorf("compare takes one scenario")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if !strings.Contains(*scen, "/") {
		plan[0].variants = plan[0].variants[:1]
	}
	down, err := c.up()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer down()
	rounds := 1
	if plan[0].sc.own { // these run once per call: repeat them in turns
		rounds, c.rounds = c.rounds, 1
	}
	all := map[string][]Result{}
	for i := 0; i < rounds; i++ {
		c.runPlan(plan, subs, func(r Result) { // connect-storm prints idle too
			if r.Scenario == plan[0].sc.name {
				all[r.Subject] = append(all[r.Subject], r)
			}
		})
	}
	line, ratio, cpu, ok := compareLine(plan[0].sc, *metric, subs[0].Name, subs[1].Name, all)
	fmt.Println(line)
	if *maxCPU > 0 && cpu == 0 {
		fmt.Fprintf(os.Stderr, "-max-cpu: no CPU figures to compare in %s\n", *scen)
		return 2
	}
	if !ok || (*minRatio > 0 && ratio < *minRatio) || (*maxCPU > 0 && cpu > *maxCPU) {
		return 1
	}
	return 0
}

// compareLine: the ratio is the median of the ratios of the rounds, each of
// which had A and B one after the other.
func compareLine(sc scenario, metric, a, b string, all map[string][]Result) (line string, ratio, cpu float64, ok bool) {
	if metric == "" {
		metric = sc.primary
	}
	join := func(name, m string) (out []float64) {
		for _, r := range all[name] {
			out = append(out, r.Raw[m]...)
		}
		return
	}
	fails := func(name string) (n int) {
		for _, r := range all[name] {
			n += sumMap(r.Fails)
		}
		return
	}
	higher := sc.higher || strings.HasSuffix(metric, "req_s") || strings.HasSuffix(metric, "MB_s")
	pair := func(m string, higher bool) float64 {
		xa, xb := join(a, m), join(b, m)
		var rs []float64
		for i := 0; i < len(xa) && i < len(xb); i++ {
			x, y := xa[i], xb[i]
			if !higher {
				x, y = y, x
			}
			if y > 0 {
				rs = append(rs, x/y)
			}
		}
		return median(rs)
	}
	ratio = pair(metric, higher)
	cpuMetric := "cpu_s_per_10k"
	if len(join(a, cpuMetric)) == 0 {
		cpuMetric = "cpu_s_per_GB"
	}
	if len(join(a, cpuMetric)) == 0 {
		cpuMetric = "server_cpu_s_per_min"
	}
	if x := pair(cpuMetric, true); x > 0 {
		cpu = x
	}
	fa, fb := fails(a), fails(b)
	ok = ratio > 0 && fa == 0
	u := unitOf(metric)
	line = fmt.Sprintf("ratio %.2f (A %s%s, B %s%s; cpu %.2f)", ratio, num(median(join(a, metric))), u, num(median(join(b, metric))), u, cpu)
	if fa > 0 || fb > 0 {
		line += fmt.Sprintf(" FAILURES A %d, B %d", fa, fb)
		for _, n := range []string{a, b} {
			for _, r := range all[n] {
				for _, s := range r.Samples {
					fmt.Fprintf(os.Stderr, "%s: %s\n", n, s)
				}
			}
		}
	}
	return
}
