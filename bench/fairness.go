package main

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A pinger sends small verified exchanges at a steady pace and measures each from
// the moment it was due, so that a blocked tunnel cannot hide its stall.
type pinger struct {
	mu   sync.Mutex // guards the fields below while pingFor runs
	lat  []int64    // nanoseconds from due to done
	done []time.Time
	t    tally
}

func (p *pinger) ok(due time.Time) {
	now := time.Now()
	p.mu.Lock()
	p.lat = append(p.lat, int64(now.Sub(due)))
	p.done = append(p.done, now)
	p.t.ok++
	p.mu.Unlock()
}

func (p *pinger) fail(err error) {
	p.mu.Lock()
	p.t.fail(err)
	p.mu.Unlock()
}

const pingEvery = 40 * time.Millisecond

// pingFor plays 8 visitors with one exchange each per 40 ms (200/s) for dur. An
// exchange that takes longer than timeout counts as a failure.
func pingFor(in *instance, dur, timeout time.Duration) *pinger {
	p := &pinger{}
	var wg sync.WaitGroup
	start := time.Now()
	for w := 0; w < 8; w++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var h *hconn
			var c net.Conn
			defer func() {
				if h != nil {
					h.c.Close()
				}
				if c != nil {
					c.Close()
				}
			}()
			for i := 0; ; i++ {
				due := start.Add(time.Duration(i)*pingEvery + time.Duration(w)*pingEvery/8)
				if due.Sub(start) >= dur {
					return
				}
				time.Sleep(time.Until(due))
				var err error
				if in.sub.Kind == "http" {
					h, _, err = getOver(h, in.target, 128, timeout)
				} else {
					first := c == nil
					if first {
						c, err = net.DialTimeout("tcp", in.target.addr, timeout)
					}
					if err == nil {
						c.SetDeadline(time.Now().Add(timeout))
						if err = echoOnce(c, first); err != nil {
							c.Close()
							c = nil
						}
					} else {
						c = nil
					}
				}
				if err != nil {
					p.fail(err)
				} else {
					p.ok(due)
				}
			}
		}()
	}
	wg.Wait()
	sortLat(p.lat)
	return p
}

// maxGap is the longest time without any completed exchange.
func (p *pinger) maxGap(start time.Time, dur time.Duration) time.Duration {
	last := start
	var g time.Duration
	for _, d := range sortTimes(p.done) {
		if d.Sub(last) > g {
			g = d.Sub(last)
		}
		last = d
	}
	if e := start.Add(dur); e.Sub(last) > g {
		g = e.Sub(last)
	}
	return g
}

func (s *sample) pingPhase(name string, p *pinger, start time.Time, dur time.Duration) {
	s.m[name+"_p50_ms"] = pct(p.lat, .5) / 1e6
	s.m[name+"_p99_ms"] = pct(p.lat, .99) / 1e6
	s.m[name+"_max_gap_ms"] = p.maxGap(start, dur).Seconds() * 1e3
	s.m[name+"_done"] = float64(len(p.lat))
	s.m[name+"_failed"] = float64(p.t.failed())
	s.addFails(name+":", &p.t)
}

func runFairness(in *instance, v string, o *opts) *sample {
	s := newSample()
	pingFor(in, 500*time.Millisecond, 5*time.Second) // warm
	phase := func(name string, dur time.Duration) {
		t0 := time.Now()
		p := pingFor(in, dur, 5*time.Second)
		s.pingPhase(name, p, t0, dur)
	}
	phase("base", 3*time.Second)

	// one visitor downloads at full speed
	stop := make(chan struct{})
	var got atomic.Int64
	var bt tally
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		bulkUntil(in, stop, &got, &bt, o)
	}()
	time.Sleep(500 * time.Millisecond)
	t0, b0 := time.Now(), got.Load()
	phase("bulk", 5*time.Second)
	s.m["bulk_MB_s"] = float64(got.Load()-b0) / 1e6 / time.Since(t0).Seconds()
	close(stop)
	wg.Wait()
	s.addFails("bulk-stream:", &bt)
	time.Sleep(500 * time.Millisecond)

	// one visitor starts a download and stops reading
	before := in.snap()
	in.resetHWM()
	st, err := openStalled(in, o)
	if err != nil {
		s.fails["stalled-open:"+classify(err)]++
		s.samples = append(s.samples, err.Error())
		return s
	}
	time.Sleep(500 * time.Millisecond)
	phase("stalled", o.stall)
	after := in.snap()
	s.m["stalled_server_rss_MB"] = float64(after.server.hwm) / 1e6
	s.m["stalled_client_rss_MB"] = float64(after.client.hwm) / 1e6
	s.m["stalled_rss_growth_MB"] = float64(after.server.rss+after.client.rss-before.server.rss-before.client.rss) / 1e6
	// and goes on: the rest must still come, unharmed
	if err := st.resume(32 << 20); err != nil {
		s.m["resume_ok"] = 0
		s.fails["resume:"+classify(err)]++
		s.samples = append(s.samples, "resume: "+err.Error())
	} else {
		s.m["resume_ok"] = 1
	}
	st.c.Close()
	if s.m["stalled_max_gap_ms"] > 3000 {
		s.notes = append(s.notes, "a stalled reader blocks the others")
	}
	if s.m["bulk_max_gap_ms"] > 3000 {
		s.notes = append(s.notes, "a bulk transfer blocks the others")
	}
	time.Sleep(500 * time.Millisecond)
	if err := in.probe(in.target, 5*time.Second); err != nil {
		s.fails["after:"+classify(err)]++
		s.notes = append(s.notes, "the tunnel does not work any more afterwards: "+err.Error())
	}
	return s
}

func bulkUntil(in *instance, stop chan struct{}, got *atomic.Int64, bt *tally, o *opts) {
	size := o.bulkSize
	if m := in.sub.MaxBody; m > 0 && size > m {
		size = m
	}
	for {
		select {
		case <-stop:
			return
		default:
		}
		if in.sub.Kind == "http" {
			h, err := dialHTTP(in.target, 5*time.Second, 256<<10)
			if err != nil {
				bt.fail(err)
				time.Sleep(50 * time.Millisecond)
				continue
			}
			err = h.get(size, 30*time.Second, func(n int) { got.Add(int64(n)) })
			h.c.Close()
			if err != nil {
				bt.fail(err)
				time.Sleep(50 * time.Millisecond)
			}
			continue
		}
		c, err := net.DialTimeout("tcp", in.target.addr, 5*time.Second)
		if err != nil {
			bt.fail(err)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		id := nextID()
		c.Write(rawHello(rawSource, id, 0))
		v := verifier{seed: seedOf(id)}
		buf := make([]byte, 256<<10)
	read:
		for {
			select {
			case <-stop:
				break read
			default:
			}
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := c.Read(buf)
			if n > 0 && !v.check(buf[:n]) {
				bt.fail(&kindErr{"wrong-bytes", "bulk"})
				break
			}
			got.Add(int64(n))
			if err != nil {
				bt.fail(err)
				break
			}
		}
		c.Close()
	}
}

type stalled struct {
	c    net.Conn
	read func(max int) ([]byte, error)
	v    verifier
	size int64
}

// openStalled begins a long download, reads 64 KB of it and then nothing.
func openStalled(in *instance, o *opts) (*stalled, error) {
	id := nextID()
	size := o.stalledSz
	if m := in.sub.MaxBody; m > 0 && size > m {
		size = m
	}
	if in.sub.Kind == "http" {
		h, err := dialHTTP(in.target, 5*time.Second, 32<<10)
		if err != nil {
			return nil, err
		}
		h.c.(*net.TCPConn).SetReadBuffer(64 << 10)
		h.c.SetDeadline(time.Now().Add(40 * time.Second))
		h.c.Write(h.head("GET", "/bytes/", size, id, -1))
		r, err := h.readHead(id)
		if err != nil {
			return nil, err
		}
		if r.status != 200 {
			return nil, &kindErr{fmt.Sprintf("status-%d", r.status), "stalled download"}
		}
		st := &stalled{c: h.c, v: verifier{seed: seedOf(id)}, size: size}
		st.read = func(max int) ([]byte, error) {
			p, err := r.body.next()
			if err == nil && p == nil {
				return nil, io.EOF
			}
			out := append([]byte(nil), p...)
			r.body.advance(p)
			return out, err
		}
		return st, st.resume(64 << 10)
	}
	c, err := net.DialTimeout("tcp", in.target.addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	c.(*net.TCPConn).SetReadBuffer(64 << 10)
	c.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := c.Write(rawHello(rawSource, id, uint64(size))); err != nil {
		return nil, err
	}
	buf := make([]byte, 32<<10)
	st := &stalled{c: c, v: verifier{seed: seedOf(id)}, size: size}
	st.read = func(max int) ([]byte, error) {
		n, err := c.Read(buf)
		return buf[:n], err
	}
	return st, st.resume(64 << 10)
}

// resume reads and verifies n more bytes (or up to the end).
func (s *stalled) resume(n int64) error {
	s.c.SetDeadline(time.Now().Add(15 * time.Second))
	goal := min(s.v.off+n, s.size)
	for s.v.off < goal {
		p, err := s.read(32 << 10)
		if len(p) > 0 && !s.v.check(p) {
			return &kindErr{"wrong-bytes", fmt.Sprintf("after byte %d", s.v.off)}
		}
		if err != nil {
			return fmt.Errorf("at byte %d: %w", s.v.off, err)
		}
	}
	return nil
}
