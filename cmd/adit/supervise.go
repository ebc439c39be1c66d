package main

import (
	"context"

	"adit/internal/sdnotify"
)

// supervise tells the service manager, if there is one, that the program does
// its work until ctx ends. The caller calls stop when the work has ended.
func (p *program) supervise(ctx context.Context, status string) (stop func()) {
	n := sdnotify.New(p.getenv)
	n.Ready(status)
	ctx, cancel := context.WithCancel(ctx)
	stopping := context.AfterFunc(ctx, n.Stopping)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		n.Watch(ctx)
	}()
	return func() {
		if stopping() {
			n.Stopping()
		}
		cancel()
		<-watched
	}
}
