package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"adit/forward"
	"adit/tunnel"
)

const (
	tellAgain = 10 * time.Second // before a person is told the same once more
	tellMost  = 20               // lines in that time
)

// A failureTeller tells a person why connections to targets were not made. Its
// methods are safe for concurrent use.
type failureTeller struct {
	out io.Writer
	now func() time.Time

	mu   sync.Mutex // held while printing
	told map[string]time.Time
}

// tellFailures has a person see what fails in open, unless the log shows that
// on the same terminal.
func (p *program) tellFailures(open forward.OpenFunc, log *slog.Logger) forward.OpenFunc {
	if !p.console || log.Enabled(context.Background(), slog.LevelWarn) {
		return open
	}
	return (&failureTeller{out: p.errOut, now: time.Now, told: make(map[string]time.Time)}).watch(open)
}

func (f *failureTeller) watch(open forward.OpenFunc) forward.OpenFunc {
	return func(ctx context.Context, t tunnel.Target) (net.Conn, error) {
		c, err := open(ctx, t)
		if err != nil && !errors.Is(ctx.Err(), context.Canceled) { // or nobody waits for it
			f.tell(openFailure(t, err))
		}
		return c, err
	}
}

// tell prints a line, unless it did so just now, or there are too many.
func (f *failureTeller) tell(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	for l, at := range f.told {
		if now.Sub(at) >= tellAgain {
			delete(f.told, l)
		}
	}
	if _, again := f.told[line]; again || len(f.told) >= tellMost {
		return
	}
	f.told[line] = now
	fmt.Fprintln(f.out, line)
}

// openFailure says why a target was not reached, for people.
func openFailure(t tunnel.Target, err error) string {
	text := strconv.Quote(t.String()) + ": "
	if re, ok := errors.AsType[*tunnel.RefusedError](err); ok {
		text += fmt.Sprintf("%s (%s)", re.Reason, re.Code)
		if re.Code == tunnel.RefuseForbidden {
			text += ": the server's --forward and the credential both have to"
		}
		return text
	}
	return text + "not connected to the server: " + reason(err)
}
