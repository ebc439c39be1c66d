package wstunnel

import (
	"sync"
	"sync/atomic"
)

// spareWorkers is how many goroutines wait for the next job, with the stacks
// that they have grown.
const spareWorkers = 64

// Workers do each job that they are given in a goroutine, at once. One goroutine
// gives them, and waits for all at the end.
type workers[T any] struct {
	do    func(T)
	next  chan T
	spare atomic.Int64
	all   sync.WaitGroup
}

func newWorkers[T any](do func(T)) *workers[T] {
	return &workers[T]{do: do, next: make(chan T)}
}

// give starts a job.
func (w *workers[T]) give(job T) {
	select {
	case w.next <- job:
		return
	default:
	}
	w.all.Go(func() {
		for more := true; more; {
			w.do(job)
			if more = w.spare.Add(1) <= spareWorkers; more {
				job, more = <-w.next
			}
			w.spare.Add(-1)
		}
	})
}

// wait returns when all jobs are done. None is given after that.
func (w *workers[T]) wait() {
	close(w.next)
	w.all.Wait()
}
