package doctor

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"adit/carrier"
	"adit/carrier/requests"
)

const (
	openTime   = 6 * time.Second // for a carrier to open
	bulkTime   = time.Second     // each way
	bulkLong   = 5 * time.Second // the same, thoroughly
	quickHold  = 7 * time.Second // longer than what cuts connections after seconds
	busyPause  = time.Second     // between signs of life on a conn in use
	silentHold = 5 * time.Minute // thoroughly

	quicSilence = 29 * time.Second // package quicconn ends a conn after 30 s
)

// silences are for how long conns are left silent, thoroughly.
var silences = []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, silentHold}

// A way opens one carrier to the server.
type way struct {
	name string
	dial func(ctx context.Context) (net.Conn, error)
}

// ways returns the carriers that are measured.
func (x *examination) ways() []way {
	dialer := func() *carrier.Dialer {
		return &carrier.Dialer{
			URL:         x.at(connectPath),
			Host:        x.opts.Host,
			Header:      x.opts.Header,
			TLS:         x.opts.TLS,
			Out:         x.opts.Out,
			Subprotocol: Subprotocol,
			ZeroMask:    true,
		}
	}
	ofRequests := func(kind requests.Kind) way {
		return way{string(kind), func(ctx context.Context) (net.Conn, error) {
			return dialer().DialRequests(ctx, kind, x.url.Path+carrierPath)
		}}
	}
	all := []way{
		{"websocket", func(ctx context.Context) (net.Conn, error) {
			conn, err := dialer().Dial(ctx)
			if err != nil {
				return nil, err
			}
			return conn, nil
		}},
		ofRequests(requests.Stream),
		ofRequests(requests.Poll),
	}
	if x.info.QUIC > 0 && x.info.QUIC < 1<<16 && x.url.Scheme == "https" && x.proxy == nil {
		d := dialer()
		u := *x.url
		u.Host = net.JoinHostPort(x.host, strconv.Itoa(x.info.QUIC))
		d.URL = u.String() + connectPath
		all = append(all, way{"quic", func(ctx context.Context) (net.Conn, error) {
			conn, err := d.DialQUIC(ctx)
			if err != nil {
				return nil, err
			}
			return conn, nil
		}})
	}
	return all
}

// carry measures the carriers, one after the other, while conns of all of them
// are held open.
func (x *examination) carry(ctx context.Context) {
	ways := x.ways()
	if x.opts.Thorough {
		x.begin("carriers: measuring each, for 5 minutes")
	} else {
		x.begin("carriers: measuring each, for some seconds")
	}
	carriers, held := make([]Carrier, len(ways)), make([]Carrier, len(ways))
	var wg sync.WaitGroup
	for i, w := range ways {
		wg.Go(func() { x.endure(ctx, w, &held[i]) })
	}
	for i, w := range ways {
		carriers[i] = x.measure(ctx, w)
	}
	wg.Wait()
	for i := range carriers {
		c, h := &carriers[i], held[i]
		if c.Status == Failed || c.Status == Skipped {
			continue
		}
		c.Silent, c.SilentCut, c.Lasted, c.LastedCut = h.Silent, h.SilentCut, h.Lasted, h.LastedCut
		if c.LastedCut || c.cutInSilence() {
			c.Status = Warning
		}
	}
	x.report.Carriers = carriers
}

// cutInSilence reports whether somebody has ended the carrier when it was silent.
// With QUIC both ends do that themselves.
func (c *Carrier) cutInSilence() bool {
	return c.SilentCut && (c.Name != "quic" || c.Silent < quicSilence.Seconds())
}

// measure opens a carrier and finds out how fast it is.
func (x *examination) measure(ctx context.Context, w way) (c Carrier) {
	c = Carrier{Name: w.name, Status: OK}
	failed := func(err error) Carrier {
		if ctx.Err() != nil {
			c.Status, c.Problem = Skipped, "there was no time left"
			return c
		}
		c.Status, c.Problem = Failed, reason(err)
		x.blameCarrier(w.name, err)
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
	long := min(bulkTime, cmp.Or(x.opts.held, bulkTime))
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

func (x *examination) openWay(ctx context.Context, w way) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	return w.dial(ctx)
}

// endure finds out how long a carrier lasts, used and silent.
func (x *examination) endure(ctx context.Context, w way, c *Carrier) {
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
}

func round(d time.Duration) float64 { return math.Round(d.Seconds()*10) / 10 }
