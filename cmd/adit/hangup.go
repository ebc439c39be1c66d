package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

// hangups brings SIGHUP to the command that runs. The zero value is ready to
// use.
type hangups struct {
	mu      sync.Mutex
	waiting chan struct{} // nil if nobody does
}

// listen returns a channel that is told of each hangup until stop is called.
// One command listens at a time.
func (h *hangups) listen() (c <-chan struct{}, stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = make(chan struct{}, 1)
	return h.waiting, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.waiting = nil
	}
}

// tell reports whether somebody listens, and tells it.
func (h *hangups) tell() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting == nil {
		return false
	}
	select {
	case h.waiting <- struct{}{}:
	default: // it is told already
	}
	return true
}

// watchEvery is how often a file is looked at for changes.
const watchEvery = time.Second

// reloading calls reload at each hangup, and when the file at path has changed
// if path is not empty, with the reason; one call at a time. The caller calls
// stop.
func (p *program) reloading(ctx context.Context, path string, reload func(why string)) (stop func()) {
	hangup, quiet := p.hangups.listen()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	changed := make(chan struct{})
	if path != "" {
		seen := lookAt(path) // before the caller goes on
		wg.Go(func() { watchFile(ctx, path, seen, watchEvery, changed) })
	}
	wg.Go(func() {
		for {
			why := "the file has changed"
			select {
			case <-hangup:
				why = "told by SIGHUP"
			case <-changed:
			case <-ctx.Done():
				return
			}
			reload(why)
		}
	})
	return func() {
		quiet()
		cancel()
		wg.Wait()
	}
}

// lookAt returns what tells that a file is another one, or has another content.
// It is empty if there is no file.
func lookAt(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size(), info.Mode(), fileID(info))
}

// watchFile tells changed when the file is not what was seen, and has not
// changed for one more look: whoever writes it is done. A file that is not there
// is about to be replaced.
func watchFile(ctx context.Context, path, seen string, every time.Duration, changed chan<- struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := seen
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := lookAt(path)
		if now != "" && now != seen && now == last {
			select {
			case changed <- struct{}{}:
			case <-ctx.Done():
				return
			}
			seen = now
		}
		last = now
	}
}
