package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/spf13/pflag"

	"adit/agent"
	"adit/internal/screen"
)

// screenFlags are the flags of commands that show on a terminal what goes on.
type screenFlags struct {
	mode string
}

func (f *screenFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.mode, "screen", "auto", "auto: on a terminal show where things stand, on a screen that is kept up to date; off: print what happens, line by line")
}

func (f *screenFlags) check() error {
	if f.mode != "auto" && f.mode != "off" {
		return usagef("--screen %q: auto and off are allowed", f.mode)
	}
	return nil
}

// A display tells a person where the agents of this process stand: on a screen
// if there is one, and else line by line.
type display struct {
	p     *program
	log   *slog.Logger // of the program
	board *board

	onScreen bool
	screen   *screen.Screen // nil before start
	lines    *statusPrinter // nil with a screen
	ending   func() bool    // nobody wants to hear of lost connections any more; set by start
}

// newDisplay returns one that does not show anything yet.
func (p *program) newDisplay(sf screenFlags, lf logFlags) (*display, error) {
	if err := sf.check(); err != nil {
		return nil, err
	}
	log, err := p.logger(lf, true)
	if err != nil {
		return nil, err
	}
	d := &display{p: p, log: log, board: newBoard(), onScreen: p.showsScreen(sf, lf)}
	if d.onScreen && p.console {
		level := slog.LevelWarn
		if lf.level == "error" {
			level = slog.LevelError
		}
		d.log = slog.New(newBoardHandler(d.board, level))
	}
	return d, nil
}

// showsScreen reports whether there is a terminal that can be written over, and
// nobody asked for logs on it.
func (p *program) showsScreen(sf screenFlags, lf logFlags) bool {
	term := p.getenv("TERM")
	asked := lf.level == "debug" || lf.level == "info" || lf.format != "auto"
	return p.terminal != nil && sf.mode == "auto" && term != "" && term != "dumb" && !(asked && p.console)
}

// start begins to show agents of that server. When ctx ends it says that the agents are about to
// stop; the caller calls stop when they have.
func (d *display) start(ctx context.Context, server string) (stop func(), err error) {
	d.ending = func() bool { return ctx.Err() != nil }
	b := d.board
	b.server = server
	var unshow func()
	if d.onScreen {
		if unshow, err = d.startScreen(ctx); err != nil {
			return nil, err
		}
	} else {
		d.lines = &statusPrinter{out: d.p.out, insecure: !isPrivate(server)}
		unshow = d.p.patience(ctx)
	}
	ending := context.AfterFunc(ctx, func() { b.end(screen.Stopping) })
	return func() {
		ending()
		unshow()
	}, nil
}

func (d *display) startScreen(ctx context.Context) (stop func(), err error) {
	b := d.board
	if !isPrivate(b.server) {
		b.note(insecureNote)
	}
	style := screen.Style{Color: d.p.getenv("NO_COLOR") == "", Unicode: d.p.unicode()}
	s, err := screen.Start(d.p.terminal, style, b.view)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w (--screen off does without)", err)
	}
	d.screen, b.wake = s, s.Wake
	d.p.shown.Store(s)
	probing, stopProbing := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { b.probe(probing) })
	return func() {
		stopProbing()
		wg.Wait()
		b.end(screen.Stopped)
		s.Close()
	}, nil
}

// join has the display show what an agent with these options does, after start,
// until leave is called.
func (d *display) join(opts *agent.Options) (leave func()) {
	if d.lines != nil {
		n := d.lines.next()
		opts.OnState = func(s agent.State) {
			if !d.ending() {
				d.lines.show(n, s)
			}
		}
	}
	opts.Logger = d.log
	return d.board.join(opts, d.onScreen)
}

// unicode reports whether the terminal shows more than ASCII, as far as the
// environment tells.
func (p *program) unicode() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToUpper(p.getenv(name)); v != "" {
			return strings.Contains(v, "UTF-8") || strings.Contains(v, "UTF8")
		}
	}
	return false
}

// restoreTerminal gives the terminal back, before the program ends at once.
func (p *program) restoreTerminal() {
	if s := p.shown.Load(); s != nil {
		s.Restore()
	}
}

// terminalOf returns f if a screen can be shown on it, and else nil.
func terminalOf(f *os.File) *os.File {
	if isTerminal(f) && screen.IsTerminal(f) {
		return f
	}
	return nil
}
