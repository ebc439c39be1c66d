package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// untilSignal returns a context that ends with the first SIGINT or SIGTERM; the
// second ends the process at once. SIGHUP goes to the command that can reload
// something. Where there is none, or the terminal is gone on which a person has
// started it, it ends the context too, unless it was to be ignored.
func (p *program) untilSignal() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	hangupsIgnored := signal.Ignored(syscall.SIGHUP)
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !p.diesOfSignals || !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	done := make(chan struct{})
	go func() {
		for told := false; ; {
			select {
			case s := <-signals:
				hangup := s == syscall.SIGHUP
				if hangup && !(p.person && terminalGone(os.Stdout)) && p.hangups.tell() {
					continue
				}
				switch {
				case hangup && hangupsIgnored:
				case !told:
					told = true
					p.signalled.Store(&s)
					cancel()
				case !hangup:
					p.restoreTerminal()
					if p.diesOfSignals {
						p.dieOfSignal()
					}
					os.Exit(exitFailed)
				}
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}

// dieOfSignal ends the process by the signal that has ended what it did. It
// returns if there was none, or the system has no such end.
func (p *program) dieOfSignal() {
	if s := p.signalled.Load(); s != nil {
		signal.Reset(*s)
		raise(*s)
	}
}
