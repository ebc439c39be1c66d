//go:build !unix

package readable

import (
	"errors"
	"fmt"
	"syscall"
)

const supported = false

// A Waiter waits for one socket again and again without allocating. It is not
// supported on this system.
type Waiter struct{}

// Init makes w wait for rc. It must be called before Wait.
func (w *Waiter) Init(rc syscall.RawConn) {}

// Wait is like the function Wait.
func (w *Waiter) Wait() error {
	return fmt.Errorf("wait for a readable socket: %w", errors.ErrUnsupported)
}

// TryRead is like Wait.
func (w *Waiter) TryRead([]byte) (int, bool, error) { return 0, true, w.Wait() }

// Read is like Wait.
func (w *Waiter) Read([]byte) (int, error) { return 0, w.Wait() }
