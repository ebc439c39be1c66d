package forest

import "sync"

// A group is goroutines that are waited for, and takes none after that.
type group struct {
	wg sync.WaitGroup

	mu    sync.Mutex // guards ended
	ended bool
}

// Go runs f, unless the group has ended.
func (g *group) Go(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return false
	}
	g.wg.Go(f)
	return true
}

// end waits for all goroutines.
func (g *group) end() {
	g.mu.Lock()
	g.ended = true
	g.mu.Unlock()
	g.wg.Wait()
}
