package server

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"adit/internal/proxyheader"
	"adit/tunnel"
)

// errRan says that a Server was run before.
var errRan = errors.New("server: Run was called before")

// Run serves until ctx ends or the listener fails. When ctx ends it says so in
// Ready, tells agents to look for another server, and goes on for
// Options.DrainDelay. Then it takes no new visitors, lets what they have begun
// finish for Options.Grace, and returns nil when nothing of the server is left.
// It can be called once.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	ran := s.ran
	s.ran = true
	s.mu.Unlock()
	if ran {
		return errRan
	}
	served := make(chan error, 4)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	if s.ln != nil {
		ln := proxyheader.Listen(s.ln, s.opts.ProxyProtocolFrom)
		if s.opts.Secure != nil {
			ln = secureListener{s.ln.(*net.TCPListener), s.opts.Secure}
		}
		wg.Go(func() { served <- s.http.Serve(serving, ln) })
	}
	if s.tls != nil {
		s.runTLS(serving, &wg, served)
	}
	if s.quic != nil {
		s.runQUIC(&wg, served)
	}
	wg.Go(func() { s.opts.Auth.Run(serving, s.recheckAll) })

	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		err = s.drain(served)
	}
	stop()
	if s.tls != nil {
		s.tls.Close()
	}
	s.http.Close()
	if s.doctor != nil {
		s.doctor.Close()
	}
	s.tcp.Close()
	s.udp.Close()
	if s.quic != nil {
		s.quic.srv.Close()
	}
	s.endAll()
	s.table.Close()
	s.agents.Wait()
	if s.quic != nil {
		s.quic.ln.End()
	}
	s.memory.stop()
	wg.Wait()
	return err
}

// drain lets what is going on come to its end, for the grace period. The error
// is that of a listener that fails before.
func (s *Server) drain(served <-chan error) error {
	s.log.Info("draining", "delay", s.opts.DrainDelay, "grace", max(s.opts.Grace, 0))
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	for _, b := range s.binders() {
		if d, ok := b.tunnel.(tunnel.Drainer); ok {
			d.Drain("the server is shutting down")
		}
	}
	if s.opts.DrainDelay > 0 {
		s.http.Retire()
		delay := time.NewTimer(s.opts.DrainDelay)
		defer delay.Stop()
		select {
		case <-delay.C:
		case err := <-served:
			return err
		}
	}
	s.close()
	s.table.Drain() // nobody need wait for an agent: none is coming
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Grace)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { s.http.Shutdown(ctx) })
	if s.tls != nil {
		wg.Go(func() { s.tls.Shutdown(ctx) })
	}
	wg.Go(func() { s.tcp.Shutdown(ctx) })
	wg.Go(func() { s.udp.Shutdown(ctx) })
	wg.Go(func() { s.forwards.shutdown(ctx) })
	wg.Wait()
	return nil
}

// close admits no more agents, and returns the tunnels of those that are here.
func (s *Server) close() []tunnel.Tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	all := make([]tunnel.Tunnel, 0, len(s.tunnels))
	for t := range s.tunnels {
		all = append(all, t)
	}
	return all
}

// endAll ends all tunnels and handshakes.
func (s *Server) endAll() {
	tunnels := s.close()
	s.mu.Lock()
	for c := range s.handshakes {
		c.Close()
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, t := range tunnels {
		wg.Go(func() { end(t, tunnel.EndShutdown, "the server is shutting down") })
	}
	wg.Wait()
}

func end(t tunnel.Tunnel, code tunnel.EndCode, reason string) error {
	if e, ok := t.(tunnel.Ender); ok {
		return e.End(code, reason)
	}
	return t.Close()
}
