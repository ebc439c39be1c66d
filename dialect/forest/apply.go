package forest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// apply makes set what the server listens for, or changes nothing and returns
// an error, which is a *listenError or an *addressError. Listeners that stay
// are not touched, nor are the conns of those that go.
func (s *Server) apply(set []Entry, f form) error {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	wanted := make(map[listenKey][]Entry)
	var order []listenKey
	for _, e := range set {
		key, err := e.key(f)
		if err != nil {
			return err
		}
		if _, ok := wanted[key]; !ok {
			order = append(order, key)
		}
		wanted[key] = append(wanted[key], e)
	}
	opened, closed, err := s.openAll(order, wanted)
	if err == nil {
		err = s.keep(set, f)
	}
	if err != nil {
		for _, l := range opened {
			l.abort()
		}
		s.reopen(closed)
		return err
	}
	for _, l := range opened {
		s.start(l, wanted[l.key])
	}
	var closing sync.WaitGroup
	defer closing.Wait() // so that ports are free when the caller is told
	for key, l := range s.listeners {
		if entries, ok := wanted[key]; ok {
			l.entries.Store(&entries)
			continue
		}
		delete(s.listeners, key)
		closing.Go(l.close)
	}
	s.publish()
	s.set, s.form = set, f
	return nil
}

func (s *Server) start(l *listener, entries []Entry) {
	l.entries.Store(&entries)
	s.listeners[l.key] = l
	if l.ln == nil {
		return
	}
	s.log.Printf("now listening on %s", l.ln.Addr())
	if !s.wg.Go(func() { s.serve(s.ctx, l) }) {
		l.ln.Close() // the server has ended
		close(l.ended)
	}
}

// openAll opens the listeners that are not there. One that is in the way and is
// to go is closed before: then a port is closed for a moment.
func (s *Server) openAll(order []listenKey, wanted map[listenKey][]Entry) (opened, closed []*listener, err error) {
	for _, key := range order {
		if s.listeners[key] != nil {
			continue
		}
		l, err := s.listenAt(key)
		if portTaken(err) {
			if gone := s.inTheWay(key, wanted); len(gone) > 0 {
				for _, o := range gone {
					o.close()
					delete(s.listeners, o.key)
				}
				closed = append(closed, gone...)
				l, err = s.listenAt(key)
			}
		}
		if err != nil {
			return opened, closed, err
		}
		opened = append(opened, l)
	}
	return opened, closed, nil
}

// inTheWay returns the listeners with the port of key that are not wanted.
func (s *Server) inTheWay(key listenKey, wanted map[listenKey][]Entry) (gone []*listener) {
	for k, l := range s.listeners {
		if _, stays := wanted[k]; !stays && k.port == key.port && k.port != 0 {
			gone = append(gone, l)
		}
	}
	return gone
}

// reopen puts back what openAll closed.
func (s *Server) reopen(closed []*listener) {
	for _, o := range closed {
		l, err := s.listenAt(o.key)
		if err != nil {
			s.log.Printf("error: a listener that was closed for a set that failed does not come back: %v", err)
			continue
		}
		s.start(l, *o.entries.Load())
	}
}

// restore applies what was kept before a restart, as far as that is possible.
func (s *Server) restore(ctx context.Context) error {
	set, f, err := s.kept()
	if err != nil || len(set) == 0 {
		return err
	}
	s.setMu.Lock()
	defer s.setMu.Unlock()
	wanted := make(map[listenKey][]Entry)
	for _, e := range set {
		key, err := e.key(f)
		if err != nil {
			return fmt.Errorf("%s: %w", s.opts.StateFile, err)
		}
		wanted[key] = append(wanted[key], e)
	}
	s.set, s.form = set, f
	for _, key := range slices.Collect(maps.Keys(wanted)) {
		l, err := s.listenAt(key)
		if err != nil {
			s.log.Printf("error: a tunnel of before the restart is not back: %v", err)
			continue
		}
		s.start(l, wanted[key])
	}
	s.publish()
	s.log.Printf("%d tunnels of before the restart are back", len(set))
	return nil
}
