package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseRate(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Rate{
		"1/s":              {1, time.Second, 1},
		"100/s":            {100, time.Second, 100},
		"600/m":            {600, time.Minute, 600},
		"20/h,burst=1":     {20, time.Hour, 1},
		"100/s,burst=200":  {100, time.Second, 200},
		"1000000/s":        {1e6, time.Second, 1e6},
		"":                 {},
		"100":              {},
		"/s":               {},
		"100/d":            {},
		"100/":             {},
		"-1/s":             {},
		"+1/s":             {},
		"1.5/s":            {},
		"1e3/s":            {},
		"1000001/s":        {},
		"99999999999999/s": {},
		"1/s,burst=":       {},
		"1/s,burst=x":      {},
		"1/s,burst=1,x":    {},
		"1/s burst=2":      {},
		" 1/s":             {},
	} {
		got, err := ParseRate(in)
		if got != want || (err == nil) == want.IsZero() {
			t.Errorf("%q: got %v, %v; want %v", in, got, err, want)
		}
		if err == nil && got.String() != in {
			t.Errorf("%q: String is %q", in, got)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	f.Add("100/s,burst=200")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRate(s)
		if err != nil {
			return
		}
		if again, err := ParseRate(r.String()); err != nil || again != r {
			t.Fatalf("%q is %v, and that is %v, %v", s, r, again, err)
		}
		l := newLimiter(r)
		if l.take(netip.Addr{}) != 0 {
			t.Fatalf("%q lets nobody in", s)
		}
	})
}

func TestRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := guard(t, Policy{Rate: Rate{10, time.Second, 3}})
		a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		for i := range 3 {
			if err := g.AdmitConn(a); err != nil {
				t.Errorf("number %d of the burst: %v", i+1, err)
			}
		}
		var d *Denied
		if err := g.AdmitConn(a); !errors.As(err, &d) || d.Code != CodeRate || d.RetryAfter != 100*time.Millisecond {
			t.Errorf("beyond the burst: got %v with %v, want rate-limited with 100ms", err, d.RetryAfter)
		}
		if err := g.AdmitConn(b); err != nil {
			t.Errorf("another visitor: %v", err)
		}
		time.Sleep(d.RetryAfter)
		if err := g.AdmitConn(a); err != nil {
			t.Errorf("after the time that was asked for: %v", err)
		}
		if err := g.AdmitConn(a); err == nil {
			t.Error("one more was let in")
		}
		time.Sleep(time.Hour)
		n := 0
		for g.AdmitConn(a) == nil {
			n++
		}
		if n != 3 {
			t.Errorf("after a long time: %d at once, want the burst of 3", n)
		}
	})
}

// A visitor with IPv6 has a whole network of addresses.
func TestRateOfNetwork(t *testing.T) {
	t.Parallel()
	g := guard(t, Policy{Rate: Rate{1, time.Hour, 1}})
	for _, tt := range []struct {
		visitor string
		want    Code
	}{
		{"2001:db8:0:1::1", ""},
		{"2001:db8:0:1:ffff::2", CodeRate},
		{"2001:db8:0:2::1", ""},
		{"192.0.2.1", ""},
		{"192.0.2.2", ""},
		{"::ffff:192.0.2.2", CodeRate},
	} {
		if got := code(t, g.AdmitConn(netip.MustParseAddr(tt.visitor))); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.visitor, got, tt.want)
		}
	}
	for i, want := range []Code{"", CodeRate} { // those without an address are one visitor
		if got := code(t, g.AdmitConn(netip.Addr{})); got != want {
			t.Errorf("unknown visitor, time %d: got %q, want %q", i+1, got, want)
		}
	}
}

func TestTotalRate(t *testing.T) {
	t.Parallel()
	g := guard(t, Policy{TotalRate: Rate{5, time.Hour, 5}, DenyIP: prefixes("198.51.100.0/24")})
	for i := range 20 { // whoever is turned away does not count
		g.AdmitConn(netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", i)))
	}
	for i := range 6 {
		want := Code("")
		if i == 5 {
			want = CodeRate
		}
		if got := code(t, g.AdmitConn(netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i)))); got != want {
			t.Errorf("visitor %d: got %q, want %q", i+1, got, want)
		}
	}
}

// Any number of visitors takes a bounded table; who is limited in it stays so
// while others come and go.
func TestRateTableIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(Rate{10, time.Second, 10})
		greedy := netip.MustParseAddr("192.0.2.1")
		for l.take(greedy) == 0 {
		}
		for i := range 3 * maxTracked {
			if l.take(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})) != 0 {
				t.Fatalf("visitor %d was limited", i)
			}
		}
		if n := len(l.next); n > maxTracked {
			t.Errorf("%d visitors in the table, want at most %d", n, maxTracked)
		}
		if l.take(greedy) == 0 {
			t.Error("a flood of others made room for the greedy one")
		}
	})
}

func BenchmarkRate(b *testing.B) {
	l := newLimiter(Rate{1e6, time.Second, 1e6})
	a := netip.MustParseAddr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		l.take(a)
	}
}
