package carrier_test

import (
	"strings"
	"testing"
	"time"

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
		{"short connections", func(t *testing.T, s string) string { return hostile.NewKiller(t, s, 150*time.Millisecond) }, both, 10 << 20},
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
