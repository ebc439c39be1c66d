// Package deadline gives whoever waits on a sync.Cond the deadlines of a
// net.Conn.
//
//	for !ready {
//		if err := d.Err(); err != nil {
//			return err
//		}
//		cond.Wait()
//	}
package deadline

import (
	"os"
	"sync"
	"time"
)

// A Deadline wakes a cond when it passes. It is guarded by the cond's lock. The
// zero Deadline never passes.
type Deadline struct {
	timer  *time.Timer
	passed bool
}

// Set lets d pass at t, or never if t is zero, and wakes cond then.
func (d *Deadline) Set(t time.Time, cond *sync.Cond) {
	d.Stop()
	d.passed = false
	if t.IsZero() {
		return
	}
	in := time.Until(t)
	if in <= 0 {
		d.passed = true
		cond.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(in, func() {
		cond.L.Lock()
		defer cond.L.Unlock()
		if d.timer == timer { // not set anew since
			d.passed = true
			cond.Broadcast()
		}
	})
	d.timer = timer
}

// Stop keeps d from passing if it has not yet.
func (d *Deadline) Stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// Err returns os.ErrDeadlineExceeded if d has passed.
func (d *Deadline) Err() error {
	if d.passed {
		return os.ErrDeadlineExceeded
	}
	return nil
}
