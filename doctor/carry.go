package doctor

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	openTime   = 6 * time.Second // for a carrier to open
	bulkTime   = time.Second     // each way
	bulkLong   = 5 * time.Second // the same, thoroughly
	quickHold  = 7 * time.Second // longer than what cuts connections after seconds
	busyPause  = time.Second     // between signs of life on a conn in use
	silentHold = 5 * time.Minute // thoroughly
)

// silences are for how long conns are left silent, thoroughly.
var silences = []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, silentHold}

// carry measures the carriers. What takes long is done at the same time for all
// of them, and after what it would disturb.
func (x *examination) carry(ctx context.Context) {
	ways := x.ways()
	carriers := make([]Carrier, len(ways))
	for i, w := range ways {
		carriers[i] = x.measure(ctx, w)
	}
	var wg sync.WaitGroup
	for i, w := range ways {
		if carriers[i].Status != Failed {
			wg.Go(func() { x.endure(ctx, w, &carriers[i]) })
		}
	}
	wg.Wait()
	x.report.Carriers = carriers
}

// measure opens a carrier and finds out how fast it is.
func (x *examination) measure(ctx context.Context, w Way) (c Carrier) {
	c = Carrier{Name: w.Name, Status: OK}
	failed := func(err error) Carrier {
		c.Status, c.Problem = Failed, reason(err)
		x.blameCarrier(w.Name, err)
		return c
	}
	began := time.Now()
	conn, err := x.openWay(ctx, w)
	if err != nil {
		return failed(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	l := newLine(conn)
	if _, err := l.ping(openTime); err != nil {
		return failed(fmt.Errorf("it opens, and nothing gets through: %w", err))
	}
	c.Opened = time.Since(began).Seconds()
	rtt, err := l.roundTrip()
	if err != nil {
		return failed(err)
	}
	c.RoundTrip = rtt.Seconds()
	long := bulkTime
	if x.opts.Thorough {
		long = bulkLong
	}
	sent := 0
	if c.Up, sent, err = l.up(long); err == nil {
		c.Down, err = l.down(long, sent)
	}
	if err != nil {
		c.Status, c.Problem = Warning, "under load: "+reason(err)
	}
	c.Up, c.Down = math.Round(c.Up), math.Round(c.Down)
	return c
}

func (x *examination) openWay(ctx context.Context, w Way) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	return w.Dial(ctx)
}

// endure finds out how long a carrier lasts, used and silent.
func (x *examination) endure(ctx context.Context, w Way, c *Carrier) {
	held := cmp.Or(x.opts.held, quickHold)
	quiet, busy := []time.Duration{held}, held
	if x.opts.Thorough {
		quiet, busy = append(quiet, silences...), silentHold
	}
	var used span
	silent := make([]span, len(quiet))
	var wg sync.WaitGroup
	hold := func(s *span, d, every time.Duration) {
		conn, err := x.openWay(ctx, w)
		if err != nil {
			s.cut = err
			return
		}
		*s = newLine(conn).hold(ctx, d, every)
	}
	wg.Go(func() { hold(&used, busy, busyPause) })
	for i, d := range quiet {
		wg.Go(func() { hold(&silent[i], d, d) })
	}
	wg.Wait()
	c.Lasted, c.LastedCut = round(used.dur), used.cut != nil
	var good, bad time.Duration
	for _, s := range silent {
		if s.cut == nil {
			good = max(good, s.dur)
		} else if bad == 0 || s.dur < bad {
			bad = s.dur
		}
	}
	c.Silent = round(good)
	if slices.ContainsFunc(silent, func(s span) bool { return s.cut != nil }) {
		c.Silent, c.SilentCut = round(max(bad, good)), true
	}
	if c.LastedCut || c.SilentCut {
		c.Status = Warning
	}
}

func round(d time.Duration) float64 { return math.Round(d.Seconds()*10) / 10 }
