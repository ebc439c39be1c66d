package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"adit/carrier"
	"adit/internal/printable"
)

// reason says in a few words what an error means.
func reason(err error) string {
	var dns *net.DNSError
	var ne net.Error
	switch {
	case err == nil:
		return "there is none"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such name"
	case errors.As(err, &dns) && dns.IsTimeout:
		return "the name server does not answer"
	case errors.As(err, &dns):
		return "the name server fails"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return "no answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.ENETUNREACH):
		return "no route to that network"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return "no route to that host"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed without an answer"
	}
	if de, ok := errors.AsType[*carrier.DialError](err); ok {
		err = de.Err // where it happened is said beside it
	}
	return plain(err.Error(), 160)
}

// plain returns text from anywhere in one line of at most limit bytes.
func plain(s string, limit int) string {
	s = printable.Line(s)
	if len(s) > limit {
		s = printable.Cut(s, limit-3) + "..."
	}
	return s
}

// short says how long something took.
func short(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()+0.5))
	case d < 3*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()+0.5))
	case d < 72*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()+0.5))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24+0.5))
}

// size says how many bytes that are.
func size(n int) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
