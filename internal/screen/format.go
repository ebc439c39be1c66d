package screen

import (
	"fmt"
	"time"
)

// duration is d in at most 7 columns, as exact as people need.
func duration(d time.Duration) string {
	switch {
	case d < 9950*time.Microsecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < 999500*time.Microsecond:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	case d < 59995*time.Millisecond:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	switch d = d.Round(time.Second); {
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 1000*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

// roundTrip is rounded, so that it stays the same while not much changes.
func roundTrip(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "under 1 ms"
	case d < 20*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	case d < 200*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Round(5*time.Millisecond).Milliseconds())
	}
	return fmt.Sprintf("%d ms", d.Round(20*time.Millisecond).Milliseconds())
}

// countdown is the whole seconds up to something.
func countdown(d time.Duration) string {
	return fmt.Sprintf("%d s", int((d+time.Second-1)/time.Second))
}

// size is n bytes in at most 7 columns.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB"} {
		switch v /= 1000; {
		case v < 9.95:
			return fmt.Sprintf("%.1f %s", v, unit)
		case v < 999.5:
			return fmt.Sprintf("%.0f %s", v, unit)
		}
	}
	return fmt.Sprintf("%.0f PB", v/1000)
}
