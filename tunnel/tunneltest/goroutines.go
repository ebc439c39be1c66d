package tunneltest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

const labelKey = "tunneltest"

// labelGoroutine marks the calling goroutine and all that descend from it, so
// that goroutines counts those of this test, whatever else the process does.
func labelGoroutine(t *testing.T) {
	ctx := pprof.WithLabels(context.Background(), pprof.Labels(labelKey, t.Name()))
	pprof.SetGoroutineLabels(ctx)
}

// goroutines counts those that bear the test's label, and returns their stacks.
func goroutines(t *testing.T) (n int, stacks string) {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		t.Fatalf("goroutine profile: %v", err)
	}
	label := fmt.Sprintf("%q:%q", labelKey, t.Name())
	var out strings.Builder
	for group := range strings.SplitSeq(profile.String(), "\n\n") {
		if !strings.Contains(group, label) {
			continue
		}
		s := bufio.NewScanner(strings.NewReader(group))
		for s.Scan() {
			var count int
			if _, err := fmt.Sscanf(s.Text(), "%d @", &count); err == nil {
				n += count
				break
			}
		}
		out.WriteString(group + "\n\n")
	}
	return n, out.String()
}

// settle waits until at most base goroutines of the test are left. Their end
// is no event that could be waited for, so it polls.
func (p *pair) settle(base int) {
	p.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		n, stacks := goroutines(p.T)
		if n <= base {
			return
		}
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			p.Fatalf("%d goroutines are left, want %d:\n%s", n, base, stacks)
		}
	}
}
