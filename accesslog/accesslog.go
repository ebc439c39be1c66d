// Package accesslog writes a line for each request of a visitor, and for each
// visitor of other protocols, as JSON; or the former in the combined format of
// web servers.
//
//	log, err := accesslog.Open(accesslog.Options{Path: "/var/log/adit/access.log"})
//	...
//	defer log.Close()
//	http := ingress.NewHTTP(ingress.HTTPOptions{OnRequest: log.Record, ...})
//	tcp := ingress.NewTCP(ingress.TCPOptions{OnVisit: log.Record, ...})
//
// Nobody waits for it: what a slow disk does not take in time is dropped, and
// counted. Queries are never written, since secrets go there; nor are header
// fields, but User-Agent and Referer.
package accesslog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"adit/ingress"
)

// A Format is how a line looks.
type Format string

const (
	JSON     Format = "json"
	Combined Format = "combined" // of Apache and nginx
)

// ParseFormat checks a format.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case JSON, Combined:
		return f, nil
	}
	return "", fmt.Errorf("format %q: %s and %s are allowed", s, JSON, Combined)
}

const (
	defaultBuffer = 1 << 20 // bytes
	flushEvery    = 200 * time.Millisecond
	closeTimeout  = 2 * time.Second
	fileMode      = 0o640
)

// Options configures a Log. Path or Writer is required.
type Options struct {
	// Path is the file, which is made if need be and appended to.
	Path string

	// Writer is where lines go if Path is empty. It is not closed.
	Writer io.Writer

	// Format is how lines look; empty means JSON.
	Format Format

	// Buffer bounds the bytes that wait to be written; 0 means 1 MiB.
	Buffer int

	// OnError is told when lines cannot be written, and once more when they can be
	// again, with nil. It may be nil.
	OnError func(error)
}

// A Log is an access log. Its methods are safe for concurrent use.
type Log struct {
	opts Options // constant after Open
	line func([]byte, *ingress.Finished, time.Time) []byte
	done chan struct{} // closed when run has ended

	mu      sync.Mutex // guards the fields below
	wake    sync.Cond  // of mu: there is something to write, or the end has come
	pending []byte     // lines that wait
	next    *os.File   // to go on with; nil if there is none
	nextAt  int        // bytes of pending that are still for the old one
	failed  bool       // the last write did
	closed  bool
	stats   Stats
}

// Stats says what became of lines so far.
type Stats struct {
	Written    uint64 // or about to be
	Dropped    uint64 // they did not fit into the buffer
	Failed     uint64 // writes that failed, with the lines in them
	Pending    int    // bytes that wait
	MaxPending int
}

// Open opens a log. Close it.
func Open(opts Options) (*Log, error) {
	if opts.Buffer <= 0 {
		opts.Buffer = defaultBuffer
	}
	if opts.OnError == nil {
		opts.OnError = func(error) {}
	}
	l := &Log{opts: opts, done: make(chan struct{})}
	l.wake.L = &l.mu
	switch opts.Format {
	case JSON, "":
		l.line = appendJSON
	case Combined:
		l.line = appendCombined
	default:
		return nil, fmt.Errorf("access log: format %q: %s and %s are allowed", opts.Format, JSON, Combined)
	}
	var file *os.File
	if opts.Path != "" {
		var err error
		if file, err = openFile(opts.Path); err != nil {
			return nil, err
		}
	} else if opts.Writer == nil {
		return nil, errors.New("access log: neither a file nor a writer")
	}
	go l.run(file)
	return l, nil
}

func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, fileMode)
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	return f, nil
}

// lines are the memory for one line each.
var lines = sync.Pool{New: func() any { return new([]byte) }}

// Record writes a line soon. It does not block. Of what is not HTTP the combined
// format has none.
func (l *Log) Record(f ingress.Finished) {
	line := lines.Get().(*[]byte)
	defer lines.Put(line)
	if *line = l.line((*line)[:0], &f, time.Now()); len(*line) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.pending)
	switch {
	case l.closed:
		return
	case before+len(*line) > l.opts.Buffer:
		l.stats.Dropped++
		return
	}
	l.pending = append(l.pending, *line...)
	l.stats.Written++
	if half := l.opts.Buffer / 2; before == 0 || before < half && len(l.pending) >= half {
		l.wake.Signal()
	}
}

// Prepare opens the file again, which has been moved away perhaps, and returns
// what goes on with it. The error is that of the system; the log then goes on
// as before. Without a file there is nothing to do.
func (l *Log) Prepare() (apply func(), err error) {
	if l.opts.Path == "" {
		return func() {}, nil
	}
	file, err := openFile(l.opts.Path)
	if err != nil {
		return nil, err
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.closed {
			file.Close()
			return
		}
		if l.next != nil {
			l.next.Close()
		}
		l.next, l.nextAt = file, len(l.pending)
		l.wake.Signal()
	}, nil
}

// Stats returns what became of lines so far.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Pending, s.MaxPending = len(l.pending), l.opts.Buffer
	return s
}

// Close writes what waits, and closes the file. It gives up on a writer that
// takes nothing for two seconds. Calls after the first do nothing more.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	l.wake.Signal()
	l.mu.Unlock()
	limit := time.NewTimer(closeTimeout)
	defer limit.Stop()
	select {
	case <-l.done:
		return nil
	case <-limit.C:
		return errors.New("access log: it cannot be written")
	}
}

// run writes what is pending, all at once and not too often. It owns file.
func (l *Log) run(file *os.File) {
	defer close(l.done)
	var spare []byte
	for {
		l.mu.Lock()
		for len(l.pending) == 0 && l.next == nil && !l.closed {
			l.wake.Wait()
		}
		lines, next, nextAt, closed := l.pending, l.next, l.nextAt, l.closed
		l.pending, l.next = spare[:0], nil
		l.mu.Unlock()

		if next != nil {
			l.write(file, lines[:nextAt])
			file.Close()
			file = next
			l.write(file, lines[nextAt:])
		} else {
			l.write(file, lines)
		}
		if spare = lines; cap(spare) > 2*l.opts.Buffer {
			spare = nil
		}
		if closed {
			if file != nil {
				file.Close()
			}
			return
		}
		l.rest()
	}
}

// rest lets lines gather, so that a busy server writes many at once. The end
// does not wait for it.
func (l *Log) rest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	over := false
	t := time.AfterFunc(flushEvery, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		over = true
		l.wake.Signal()
	})
	defer t.Stop()
	for !over && !l.closed && l.next == nil && len(l.pending) < l.opts.Buffer/2 {
		l.wake.Wait()
	}
}

func (l *Log) write(file *os.File, lines []byte) {
	if len(lines) == 0 {
		return
	}
	w := l.opts.Writer
	if file != nil {
		w = file
	}
	_, err := w.Write(lines)
	l.mu.Lock()
	tell := (err != nil) != l.failed
	l.failed = err != nil
	if err != nil {
		l.stats.Failed++
	}
	l.mu.Unlock()
	if tell {
		l.opts.OnError(err)
	}
}
