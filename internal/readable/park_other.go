//go:build !linux

package readable

// Park is for systems with epoll alone: it reports false.
func (w *Waiter) Park(f func()) bool { return false }

// Unpark does nothing.
func (w *Waiter) Unpark() {}
