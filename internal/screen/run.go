package screen

import (
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"
)

const (
	paintEvery = 200 * time.Millisecond // at most
	lookEvery  = time.Second            // for what changes by itself, such as a countdown
)

// A Screen keeps a block on a terminal up to date. Its methods are safe for
// concurrent use.
type Screen struct {
	view    func() View
	style   Style
	term    *terminal
	painter *Painter

	stale atomic.Bool   // Wake was called since the last view was taken
	wake  chan struct{} // holds one
	close func()
}

// IsTerminal reports whether a screen can be shown on f.
func IsTerminal(f *os.File) bool {
	_, err := openTerminal(f)
	return err == nil
}

// Start shows what view returns on the terminal f, until Close. view is called
// by one goroutine at a time.
func Start(f *os.File, style Style, view func() View) (*Screen, error) {
	term, err := openTerminal(f)
	if err != nil {
		return nil, err
	}
	s := &Screen{view: view, style: style, term: term, painter: NewPainter(f), wake: make(chan struct{}, 1)}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.run(done) })
	s.close = sync.OnceFunc(func() {
		close(done)
		wg.Wait()
		term.restore()
	})
	return s, nil
}

// Wake says that the view has changed. It does not block, and costs next to
// nothing however often it is called.
func (s *Screen) Wake() {
	if s.stale.Swap(true) {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close shows the last view, which stays, and gives the terminal back. Calls
// after the first do nothing.
func (s *Screen) Close() { s.close() }

// Restore gives the terminal back and does nothing else, for a program that is
// about to end without Close.
func (s *Screen) Restore() { s.term.restore() }

func (s *Screen) run(done <-chan struct{}) {
	resized, continued := make(chan os.Signal, 1), make(chan os.Signal, 1)
	notify(resized, continued)
	defer signal.Stop(resized)
	defer signal.Stop(continued)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	soon := time.NewTimer(0) // the first paint, and each that had to wait
	defer soon.Stop()
	var last time.Time
	for {
		select {
		case <-s.wake:
			soon.Reset(max(0, paintEvery-time.Since(last)))
			continue
		case <-resized:
			soon.Reset(max(0, paintEvery-time.Since(last)))
			continue
		case <-continued:
			s.painter.Forget() // the shell has written below the block
		case <-soon.C:
		case <-look.C:
		case <-done:
			s.paint()
			return
		}
		s.paint()
		last = time.Now()
	}
}

func (s *Screen) paint() {
	if !s.term.foreground() {
		s.painter.Forget()
		return
	}
	s.term.quiet()
	s.stale.Store(false)
	cols, rows := s.term.size()
	s.painter.Paint(Render(s.view(), cols, rows, s.style), cols)
}
