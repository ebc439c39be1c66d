package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Rate is so many events in a time, of which a burst may come at once. The
// zero Rate is no limit. Its text is "100/s", "600/m" or "20/h", with
// ",burst=200" behind it if a burst is not Count.
type Rate struct {
	Count int
	Per   time.Duration // a second, a minute or an hour
	Burst int
}

// maxRate bounds the numbers of a Rate.
const maxRate = 1_000_000

var ratePeriods = []struct {
	name string
	per  time.Duration
}{{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}}

// ParseRate parses the text of a rate.
func ParseRate(s string) (Rate, error) {
	var r Rate
	err := r.UnmarshalText([]byte(s))
	return r, err
}

// IsZero reports whether r is no limit.
func (r Rate) IsZero() bool { return r == Rate{} }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Rate) UnmarshalText(text []byte) error {
	s := string(text)
	wrong := fmt.Errorf("%.40q: want a number up to %d and a time, such as 100/s, 600/m or 20/h, and perhaps a burst: 100/s,burst=200", s, maxRate)
	events, burst, bursts := strings.Cut(s, ",burst=")
	count, unit, _ := strings.Cut(events, "/")
	got := Rate{}
	for _, p := range ratePeriods {
		if unit == p.name {
			got.Per = p.per
		}
	}
	var ok bool
	if got.Count, ok = parseCount(count); !ok || got.Per == 0 {
		return wrong
	}
	got.Burst = got.Count
	if bursts {
		if got.Burst, ok = parseCount(burst); !ok {
			return wrong
		}
	}
	*r = got
	return nil
}

func parseCount(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && n >= 1 && n <= maxRate && s[0] != '+'
}

// String returns the text of r.
func (r Rate) String() string {
	unit := "?"
	for _, p := range ratePeriods {
		if r.Per == p.per {
			unit = p.name
		}
	}
	s := fmt.Sprintf("%d/%s", r.Count, unit)
	if r.Burst != r.Count {
		s += fmt.Sprintf(",burst=%d", r.Burst)
	}
	return s
}

// MarshalText implements encoding.TextMarshaler.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r Rate) check() error {
	if r.IsZero() {
		return nil
	}
	again, err := ParseRate(r.String())
	if err == nil && again != r {
		err = fmt.Errorf("%v: want a count, a time of a second, a minute or an hour, and a burst", r)
	}
	return err
}

// maxTracked bounds the visitors that one limiter knows apart.
const maxTracked = 1 << 14

// A limiter holds each visitor to a rate. Of a visitor it keeps only the time
// at which it would have used up nothing (the generic cell rate algorithm of
// ITU-T I.371), so that whoever has been quiet can be forgotten.
type limiter struct {
	interval  time.Duration // for one event
	tolerance time.Duration // for a burst
	base      time.Time

	mu   sync.Mutex // guards the fields below
	next map[netip.Addr]time.Duration
}

// newLimiter returns nil for no limit.
func newLimiter(r Rate) *limiter {
	if r.IsZero() {
		return nil
	}
	interval := r.Per / time.Duration(r.Count)
	return &limiter{
		interval:  interval,
		tolerance: interval * time.Duration(r.Burst-1),
		base:      time.Now(),
		next:      make(map[netip.Addr]time.Duration),
	}
}

// visitorKey is what counts as one visitor: who has an IPv6 address has a whole
// network of them.
func visitorKey(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// take counts an event, and returns 0; or it returns how long to wait for the
// next one that would count.
func (l *limiter) take(key netip.Addr) time.Duration {
	now := time.Since(l.base)
	l.mu.Lock()
	defer l.mu.Unlock()
	at := max(l.next[key], now)
	if wait := at - now - l.tolerance; wait > 0 {
		return wait
	}
	if len(l.next) >= maxTracked {
		l.forgetLocked(now)
	}
	l.next[key] = at + l.interval
	return 0
}

// giveBack takes back an event that take counted.
func (l *limiter) giveBack(key netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.next[key]; ok {
		l.next[key] = at - l.interval
	}
}

// forgetLocked makes room: of a few visitors it forgets those that have been
// quiet, or else the one that is nearest to it.
func (l *limiter) forgetLocked(now time.Duration) {
	const look = 64
	var nearest netip.Addr
	least, n, forgot := time.Duration(-1), 0, false
	for key, at := range l.next {
		switch {
		case at <= now:
			delete(l.next, key)
			forgot = true
		case least < 0 || at < least:
			nearest, least = key, at
		}
		if n++; n == look {
			break
		}
	}
	if !forgot {
		delete(l.next, nearest)
	}
}
