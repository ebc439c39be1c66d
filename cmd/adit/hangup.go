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
	var watch watchedFile
	var looks <-chan time.Time
	tick := time.NewTicker(watchEvery)
	if path != "" {
		watch, looks = watchFile(path), tick.C
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer tick.Stop()
		for {
			select {
			case <-looks:
				if watch.changed() {
					reload("the file has changed")
				}
			case <-hangup:
				watch.seen = lookAt(path)
				reload("told by SIGHUP")
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		quiet()
		cancel()
		wg.Wait()
	}
}

// A watchedFile is a file that is looked at from time to time.
type watchedFile struct {
	path       string
	seen, last string // what lookAt said when it was read, and at the last look
}

func watchFile(path string) watchedFile {
	now := lookAt(path)
	return watchedFile{path, now, now}
}

// changed reports whether the file is not what was seen, and was the same at
// the last look already: whoever writes it is done. A file that is not there is
// about to be replaced.
func (w *watchedFile) changed() bool {
	now := lookAt(w.path)
	changed := now != "" && now != w.seen && now == w.last
	if changed {
		w.seen = now
	}
	w.last = now
	return changed
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
