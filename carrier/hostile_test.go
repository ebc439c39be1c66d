package carrier_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"adit/carrier"
	"adit/carrier/requests"
	"adit/internal/hostile"
)

// TestRequestsInHostileNetworks transfers bytes through each device that lets
// the kind of carrier through.
func TestRequestsInHostileNetworks(t *testing.T) {
	t.Parallel()
	both := []requests.Kind{requests.Stream, requests.Poll}
	poll := []requests.Kind{requests.Poll}
	for _, tt := range []struct {
		name  string
		start func(t *testing.T, server string) string
		kinds []requests.Kind
		size  int
	}{
		{"without Upgrade", func(t *testing.T, s string) string { return hostile.NewStripper(t, s) }, both, 10 << 20},
		{"buffer of 64 KiB", func(t *testing.T, s string) string { return hostile.NewBuffer(t, s, 64<<10) }, poll, 10 << 20},
		{"buffer to the end", func(t *testing.T, s string) string { return hostile.NewBuffer(t, s, 0) }, poll, 10 << 20},
		{"text alone", func(t *testing.T, s string) string { return hostile.NewTextOnly(t, s) }, both, 10 << 20},
		{"short connections", func(t *testing.T, s string) string { return hostile.NewCutter(t, s, 3<<20) }, both, 10 << 20},
		{"repeats", func(t *testing.T, s string) string { return hostile.NewRepeater(t, s) }, both, 3 << 20},
		{"delay", func(t *testing.T, s string) string { return hostile.NewDelay(t, s, 100*time.Millisecond) }, both, 3 << 20},
		{"HTTP 1.0", func(t *testing.T, s string) string { return hostile.NewHTTP10(t, s) }, poll, 10 << 20},
	} {
		for _, kind := range tt.kinds {
			t.Run(tt.name+"/"+string(kind), func(t *testing.T) {
				t.Parallel()
				rs := newRequestServer(t, false)
				addr := tt.start(t, strings.TrimPrefix(rs.url, "http://"))
				near, far := rs.pair(t, kind, "http://"+addr)
				began := time.Now()
				transfer(t, near, far, tt.size)
				t.Logf("%.1f MB/s each way", float64(tt.size)/1e6/time.Since(began).Seconds())
			})
		}
	}
}

// TestEcho sends a byte each way after a pause: it takes no more than two round
// trips, though each way is a request of its own.
func TestEcho(t *testing.T) {
	t.Parallel()
	const rtt = 200 * time.Millisecond
	for _, kind := range []requests.Kind{requests.Stream, requests.Poll} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			rs := newRequestServer(t, false)
			addr := hostile.NewDelay(t, strings.TrimPrefix(rs.url, "http://"), rtt)
			near, far := rs.pair(t, kind, "http://"+addr)
			go io.Copy(far, far) // ends with far
			b := []byte{7}
			// A busy machine makes some take longer, but not all.
			fastest := time.Hour
			for n, first := 0, time.Now(); n < 4 || fastest > 2*rtt && time.Since(first) < time.Minute; n++ {
				rs.rest() // then each way is a request of its own
				began := time.Now()
				near.SetDeadline(began.Add(20 * time.Second))
				if _, err := near.Write(b); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(near, b); err != nil {
					t.Fatal(err)
				}
				took := time.Since(began)
				fastest = min(fastest, took)
				t.Logf("%s", took.Round(time.Millisecond))
			}
			if fastest > 2*rtt {
				t.Errorf("an echo took %s, want at most two round trips of %s", fastest, rtt)
			}
		})
	}
}

// TestHeldBack tells who asks for a stream why there is none.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	rs := newRequestServer(t, false)
	addr := hostile.NewBuffer(t, strings.TrimPrefix(rs.url, "http://"), 64<<10)
	d := &carrier.Dialer{URL: "http://" + addr + "/connect"}
	c, err := d.DialRequests(t.Context(), requests.Stream, "/carrier")
	if !errors.Is(err, requests.ErrHeldBack) {
		t.Errorf("DialRequests: %v, %v; want ErrHeldBack", c, err)
	}
	(<-rs.conns).Close()
}
