package datagrams

import (
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	flowQueue     = 256       // datagrams that wait for one flow's stream
	flowQueueSize = 512 << 10 // and their bytes
	maxQueued     = 4 << 20   // bytes of those that wait for the streams of a socket
	keptQueueSize = 16 << 10  // of a buffer that a flow keeps for the next

	// newcomer is for how long a flow keeps its place though nothing answers.
	newcomer = time.Second

	// spare is how long a flow has carried nothing that gives its place to
	// another, though it was answered.
	spare = 5 * time.Second

	// displaceSteps is how many answered flows are looked at for one such.
	displaceSteps = 16
)

// ErrForget is what Open's error wraps if the sender is to be forgotten at once.
var ErrForget = errors.New("datagrams: sender not to be remembered")

// FlowOptions configures Flows. Open, Max and Abort are required.
type FlowOptions[K comparable] struct {
	// Open opens the stream of a flow. ctx ends with the flow, and Open sees
	// to a deadline. With an error the datagrams are lost, and what else the
	// same sender sends within a second, unless the error wraps ErrForget; Open
	// logs why.
	Open func(ctx context.Context, key K) (net.Conn, error)

	// Abort ends a stream so that its far side knows that it was cut.
	Abort func(stream net.Conn)

	// Max is how many flows there are at a time. One more takes the place of
	// the oldest that nothing has answered within a second, or of one that
	// has carried nothing for 5 s, or is lost.
	Max int

	// Idle is for how long a flow may carry nothing, and Unanswered for how
	// long one to which nothing has come back; 0 means IdleTimeout, and Idle.
	Idle, Unanswered time.Duration

	// Ended is called for each flow whose stream was opened; nil is not called.
	Ended func(key K, stream net.Conn, c Carried)
}

// Carried is what a flow has carried.
type Carried struct {
	Sent, Received int64 // bytes of datagrams
	Err            error // with which the stream ended, if that came first
}

// Flows are the streams of one UDP socket: one for each key, such as a sender. A
// datagram that finds no room is lost, as datagrams are. Its methods are safe
// for concurrent use.
type Flows[K comparable] struct {
	opts FlowOptions[K]
	ctx  context.Context // ends the flows

	running sync.WaitGroup
	base    time.Time

	mu         sync.Mutex // guards the fields below, and those of flows
	draining   bool
	by         map[K]*flow[K]
	unanswered list.List // of *flow[K], the oldest first
	answered   list.List // of *flow[K], roughly the one first that is idle longest
	queued     int       // bytes that wait
}

// A flow is one stream, or one that is being opened.
type flow[K comparable] struct {
	key    K
	reply  func(b []byte) error
	cancel context.CancelFunc
	began  time.Time
	more   chan struct{} // has an element if something waits
	last   atomic.Int64  // when it carried something: since Flows.base
	idle   *time.Timer   // nil until the stream is open

	in      *list.List // where at is: Flows.unanswered or Flows.answered
	at      *list.Element
	failed  bool   // nothing is taken any more
	waiting []byte // datagrams with their heads
	count   int    // of them
	writing int    // bytes that were taken and are not written yet
}

// NewFlows returns Flows without any. They end with ctx.
func NewFlows[K comparable](ctx context.Context, opts FlowOptions[K]) *Flows[K] {
	if opts.Idle <= 0 {
		opts.Idle = IdleTimeout
	}
	if opts.Unanswered <= 0 {
		opts.Unanswered = opts.Idle
	}
	return &Flows[K]{opts: opts, ctx: ctx, base: time.Now(), by: make(map[K]*flow[K])}
}

// Drain lets no flow begin any more, and ends those that are there once they
// have carried nothing for a second.
func (f *Flows[K]) Drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.draining = true
	for _, fl := range f.by {
		if fl.idle != nil {
			fl.idle.Reset(0) // looks again
		}
	}
}

// Wait waits until all flows have ended, after ctx has or Drain was called.
func (f *Flows[K]) Wait() { f.running.Wait() }

// Len returns the number of flows.
func (f *Flows[K]) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.by)
}

// Send sends a datagram, which is copied. What comes back goes to the reply of
// the flow's first Send. It does not block, and reports whether there was room.
func (f *Flows[K]) Send(key K, b []byte, reply func(b []byte) error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.queued+len(b) > maxQueued {
		return false
	}
	fl := f.by[key]
	if fl == nil {
		fl = f.addLocked(key, reply)
	}
	if fl == nil || fl.failed || fl.count == flowQueue || len(fl.waiting)+len(b) > flowQueueSize {
		return false
	}
	fl.waiting = binary.BigEndian.AppendUint16(fl.waiting, uint16(len(b)))
	fl.waiting = append(fl.waiting, b...)
	fl.count++
	f.queued += len(b)
	f.touch(fl)
	select {
	case fl.more <- struct{}{}:
	default:
	}
	return true
}

// touch notes that a flow carries something.
func (f *Flows[K]) touch(fl *flow[K]) { fl.last.Store(int64(time.Since(f.base))) }

// quiet returns for how long a flow has carried nothing.
func (f *Flows[K]) quiet(fl *flow[K]) time.Duration {
	return time.Since(f.base) - time.Duration(fl.last.Load())
}

// addLocked begins a flow, or returns nil.
func (f *Flows[K]) addLocked(key K, reply func(b []byte) error) *flow[K] {
	if f.draining || f.ctx.Err() != nil || len(f.by) >= f.opts.Max && !f.displaceLocked() {
		return nil
	}
	ctx, cancel := context.WithCancel(f.ctx)
	fl := &flow[K]{key: key, reply: reply, cancel: cancel, began: time.Now(), more: make(chan struct{}, 1)}
	f.enterLocked(fl, &f.unanswered)
	f.by[key] = fl
	f.running.Go(func() {
		err := f.run(ctx, fl)
		f.linger(ctx, fl, err)
	})
	return fl
}

// displaceLocked makes room for one flow, if there is one to displace.
func (f *Flows[K]) displaceLocked() bool {
	if e := f.unanswered.Front(); e != nil {
		if fl := e.Value.(*flow[K]); time.Since(fl.began) >= newcomer {
			f.dropLocked(fl)
			return true
		}
	}
	for range displaceSteps {
		e := f.answered.Front()
		if e == nil {
			return false
		}
		fl := e.Value.(*flow[K])
		if f.quiet(fl) >= spare {
			f.dropLocked(fl)
			return true
		}
		f.answered.MoveToBack(e)
	}
	return false
}

func (f *Flows[K]) enterLocked(fl *flow[K], in *list.List) {
	fl.in, fl.at = in, in.PushBack(fl)
}

// dropLocked forgets a flow, and ends it if it has not. It may be called again.
func (f *Flows[K]) dropLocked(fl *flow[K]) {
	fl.cancel()
	f.discardLocked(fl)
	if fl.at == nil {
		return
	}
	fl.in.Remove(fl.at)
	fl.at = nil
	delete(f.by, fl.key)
}

// discardLocked loses what waits for a flow, and lets nothing more wait.
func (f *Flows[K]) discardLocked(fl *flow[K]) {
	fl.failed = true
	f.queued -= fl.writing + len(fl.waiting) - fl.count*HeadLen
	fl.waiting, fl.count, fl.writing = nil, 0, 0
}

// linger forgets a flow that has ended. One that nobody has answered keeps its
// place for what is left of its second: however often its sender sends, there
// are not more attempts.
func (f *Flows[K]) linger(ctx context.Context, fl *flow[K], err error) {
	f.mu.Lock()
	f.discardLocked(fl)
	left := newcomer - time.Since(fl.began)
	unanswered := fl.in == &f.unanswered
	f.mu.Unlock()
	if unanswered && left > 0 && !errors.Is(err, ErrForget) {
		pause := time.NewTimer(left)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropLocked(fl)
}

// answer notes that something has come back for the first time.
func (f *Flows[K]) answer(fl *flow[K]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.at != nil {
		f.unanswered.Remove(fl.at)
		f.enterLocked(fl, &f.answered)
		fl.idle.Reset(f.opts.Idle) // looks again
	}
}

// watch ends a flow that has carried nothing for too long, and looks again
// later at one that has.
func (f *Flows[K]) watch(fl *flow[K]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if left := f.patienceLocked(fl) - f.quiet(fl); left > 0 && !fl.failed {
		fl.idle.Reset(left)
		return
	}
	fl.cancel()
}

func (f *Flows[K]) patienceLocked(fl *flow[K]) time.Duration {
	switch {
	case f.draining:
		return min(newcomer, f.opts.Unanswered)
	case fl.in == &f.unanswered:
		return f.opts.Unanswered
	}
	return f.opts.Idle
}

// take returns the datagrams that wait. b are those that it returned before,
// which have been written.
func (f *Flows[K]) take(fl *flow[K], b []byte) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	waiting := fl.waiting
	f.queued -= fl.writing
	fl.writing = len(waiting) - fl.count*HeadLen
	fl.waiting, fl.count = nil, 0 // an idle flow holds no memory
	if len(waiting) > 0 && cap(b) <= keptQueueSize {
		fl.waiting = b[:0]
	}
	return waiting
}

// run carries one flow until it is idle, its stream ends, or ctx does. The error
// is why it has no stream.
func (f *Flows[K]) run(ctx context.Context, fl *flow[K]) error {
	stream, err := f.opts.Open(ctx, fl.key)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.opts.Abort(stream) })
	f.mu.Lock()
	f.touch(fl)
	fl.idle = time.AfterFunc(f.patienceLocked(fl), func() { f.watch(fl) })
	f.mu.Unlock()
	var c Carried
	ended := make(chan struct{}) // the stream has
	go func() {
		defer close(ended)
		c.Received, c.Err = f.receive(fl, stream)
	}()
	c.Sent = f.send(ctx, fl, stream, ended)
	fl.idle.Stop()
	cut := !stop() // ctx has ended, and the stream is aborted
	stream.Close()
	<-ended
	if cut {
		c.Err = nil
	}
	if f.opts.Ended != nil {
		f.opts.Ended(fl.key, stream, c)
	}
	return nil
}

// send sends what waits until the stream or ctx has ended.
func (f *Flows[K]) send(ctx context.Context, fl *flow[K], stream net.Conn, ended <-chan struct{}) (sent int64) {
	for {
		select {
		case <-fl.more:
		case <-ended:
			return sent
		case <-ctx.Done():
			return sent
		}
		for b := f.take(fl, nil); len(b) > 0; b = f.take(fl, b) {
			if _, err := stream.Write(b); err != nil {
				return sent
			}
			for rest := b; len(rest) > 0; {
				n := int(binary.BigEndian.Uint16(rest))
				sent += int64(n)
				rest = rest[HeadLen+n:]
			}
		}
	}
}

// receive hands on what comes back until the stream ends.
func (f *Flows[K]) receive(fl *flow[K], stream net.Conn) (received int64, err error) {
	in := NewReader(stream)
	defer in.Release()
	for first := true; ; first = false {
		b, err := in.Next()
		if err != nil {
			return received, err
		}
		if first {
			f.answer(fl)
		}
		f.touch(fl)
		received += int64(len(b))
		fl.reply(b) // what cannot be sent is lost
	}
}
