package main

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

func median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	s := append([]float64(nil), xs...)
	sort.Float64s(s)
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return round4((s[n/2-1] + s[n/2]) / 2)
}

func round4(x float64) float64 {
	if x > 1000 || x < -1000 {
		return float64(int64(x*10+.5)) / 10
	}
	if x < 0 {
		return x
	}
	return float64(int64(x*10000+.5)) / 10000
}

// percentiles sorts lat.
func pct(lat []int64, q float64) float64 {
	if len(lat) == 0 {
		return 0
	}
	i := int(q * float64(len(lat)))
	if i >= len(lat) {
		i = len(lat) - 1
	}
	return float64(lat[i])
}

func sortLat(l []int64) { sort.Slice(l, func(i, j int) bool { return l[i] < l[j] }) }

func sortTimes(t []time.Time) []time.Time {
	sort.Slice(t, func(i, j int) bool { return t[i].Before(t[j]) })
	return t
}

func unitOf(metric string) string {
	for suf, u := range map[string]string{"req_s": " req/s", "MB_s": " MB/s", "_us": " µs", "_ms": " ms", "_KB": " KB", "_MB": " MB", "_s": " s"} {
		if strings.HasSuffix(metric, suf) && (suf != "_s" || !strings.HasSuffix(metric, "req_s") && !strings.HasSuffix(metric, "MB_s")) {
			return u
		}
	}
	return ""
}

// num writes numbers with thousands separators and no needless digits.
func num(x float64) string {
	if x < 0 {
		return "-"
	}
	switch {
	case x >= 1000:
		s := fmt.Sprintf("%.0f", x)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x == 0:
		return "0"
	case x >= 0.1:
		return fmt.Sprintf("%.2f", x)
	default:
		return fmt.Sprintf("%.3f", x)
	}
}
