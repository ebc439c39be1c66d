package datagrams

import (
	"container/list"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/udpsocket"
)

const (
	flowQueue     = 256       // datagrams that wait for one flow's stream
	flowQueueSize = 512 << 10 // and their bytes
	maxQueued     = 4 << 20   // bytes of those that wait for the streams of a socket

	// maxLent is from when on memory for what waits is not what others have
	// needed for more: bytes of it, per socket.
	maxLent = 8 << 20

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

// FlowOptions configures Flows. Open, Reply, Max and Abort are required.
type FlowOptions[K comparable] struct {
	// Open opens the stream of a flow; what has a method Unwrap is taken for a
	// cover of the conn that it returns. ctx ends with the flow, and Open sees
	// to a deadline. With an error the datagrams are lost, and what else the
	// same sender sends within a second, unless the error wraps ErrForget; Open
	// logs why.
	Open func(ctx context.Context, key K) (net.Conn, error)

	// Reply sends what comes back to the sender, at least one datagram, and
	// returns how many it has dealt with: those that the system refuses are
	// lost. With wait that is all of them, unless the socket is closed;
	// without, it does not block, and returns 0 if it has no such way. The
	// datagrams are good until it returns.
	Reply func(key K, datagrams [][]byte, wait bool) (done int, err error)

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
	unanswered list.List  // of *flow[K], the oldest first
	answered   list.List  // of *flow[K], roughly the one first that is idle longest
	queued     int        // bytes that wait
	lent       int        // bytes of the memory that they wait in
	fresh      []*flow[K] // have something that waits since Flush, and may have ended
}

// A flow is one stream, or one that is being opened.
type flow[K comparable] struct {
	key    K
	cancel context.CancelFunc
	began  time.Time
	more   chan struct{} // has an element if something waits
	last   atomic.Int64  // when it carried something: since Flows.base
	idle   *time.Timer   // nil until the stream is open

	in      *list.List // where at is: Flows.unanswered or Flows.answered
	at      *list.Element
	failed  bool    // nothing is taken any more
	fresh   bool    // it is in Flows.fresh
	waiting *[]byte // datagrams with their heads, or nil
	count   int     // of them
	size    int     // of them, in bytes, without the heads
	writing int     // bytes that were taken and are not written yet
	lent    int     // bytes of the memory of those that wait and those
	direct  queuer  // its stream, if that can be written to without waiting, or nil
	sent    int64   // bytes of datagrams that were written so
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

// Send sends a datagram, which is copied. It does not block, and reports whether
// there was room.
func (f *Flows[K]) Send(key K, b []byte) bool {
	taken := f.Queue(key, udpsocket.Run{B: b})
	f.Flush()
	return taken == 1
}

// Queue is Send for all datagrams of a run, and returns for how many there was
// room. They leave with Flush.
func (f *Flows[K]) Queue(key K, r udpsocket.Run) (taken int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := f.by[key]
	for b := range r.All() {
		if f.queued+len(b) > maxQueued {
			continue
		}
		if fl == nil {
			fl = f.addLocked(key)
		}
		if fl == nil || fl.failed {
			break
		}
		if fl.count == flowQueue || fl.size+len(b) > flowQueueSize {
			continue
		}
		if fl.waiting == nil {
			fl.waiting = f.borrowLocked(fl)
		}
		before := cap(*fl.waiting)
		*fl.waiting = appendDatagram(*fl.waiting, b)
		f.lendLocked(fl, cap(*fl.waiting)-before)
		fl.count++
		fl.size += len(b)
		f.queued += len(b)
		taken++
	}
	if taken > 0 {
		f.touch(fl)
		if !fl.fresh {
			fl.fresh = true
			f.fresh = append(f.fresh, fl)
		}
	}
	return taken
}

// borrowLocked returns memory for datagrams that wait for a flow. However little
// each of many flows has, together they hold not much more than that.
func (f *Flows[K]) borrowLocked(fl *flow[K]) *[]byte {
	b := blocks.Get().(*[]byte)
	if f.lent+cap(*b) > maxLent {
		blocks.Put(b)
		b = new([]byte)
	}
	f.lendLocked(fl, cap(*b))
	return b
}

// lendLocked takes note that a flow has n bytes of memory more.
func (f *Flows[K]) lendLocked(fl *flow[K], n int) {
	fl.lent += n
	f.lent += n
}

// A queuer is a stream that can be written to without waiting.
type queuer interface {
	// TryQueue queues all of p, or nothing and reports false.
	TryQueue(p []byte) bool

	// SendQueued sends what was queued to this stream, or to others of the
	// same session.
	SendQueued()
}

var queuers = sync.Pool{New: func() any { return new([]queuer) }}

// Flush has what was queued leave: where a stream can be written to without
// waiting here and now, and otherwise from the flow's own goroutine.
func (f *Flows[K]) Flush() {
	list := queuers.Get().(*[]queuer)
	f.mu.Lock()
	for i, fl := range f.fresh {
		f.fresh[i] = nil
		fl.fresh = false
		if f.queueLocked(fl) {
			*list = append(*list, fl.direct)
			continue
		}
		select {
		case fl.more <- struct{}{}:
		default:
		}
	}
	f.fresh = f.fresh[:0]
	f.mu.Unlock()
	for _, q := range *list {
		q.SendQueued()
	}
	clear(*list)
	*list = (*list)[:0]
	queuers.Put(list)
}

// queueLocked queues what waits for a flow to its stream, unless that would wait
// or something from before is being written.
func (f *Flows[K]) queueLocked(fl *flow[K]) bool {
	if fl.direct == nil || fl.waiting == nil || fl.lent > cap(*fl.waiting) || !fl.direct.TryQueue(*fl.waiting) {
		return false
	}
	fl.sent += int64(fl.size)
	f.queued -= fl.size
	f.lendLocked(fl, -fl.lent)
	giveBack(fl.waiting)
	fl.waiting, fl.count, fl.size = nil, 0, 0
	return true
}

// touch notes that a flow carries something.
func (f *Flows[K]) touch(fl *flow[K]) { fl.last.Store(int64(time.Since(f.base))) }

// quiet returns for how long a flow has carried nothing.
func (f *Flows[K]) quiet(fl *flow[K]) time.Duration {
	return time.Since(f.base) - time.Duration(fl.last.Load())
}

// addLocked begins a flow, or returns nil.
func (f *Flows[K]) addLocked(key K) *flow[K] {
	if f.draining || f.ctx.Err() != nil || len(f.by) >= f.opts.Max && !f.displaceLocked() {
		return nil
	}
	ctx, cancel := context.WithCancel(f.ctx)
	fl := &flow[K]{key: key, cancel: cancel, began: time.Now(), more: make(chan struct{}, 1)}
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
	f.queued -= fl.writing + fl.size
	f.lendLocked(fl, -fl.lent)
	if fl.waiting != nil {
		giveBack(fl.waiting)
	}
	fl.waiting, fl.count, fl.size, fl.writing = nil, 0, 0, 0
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

// take returns the datagrams that wait, and how many bytes they have without
// their heads; nil if none do. Those that it returned before have been written.
func (f *Flows[K]) take(fl *flow[K]) (b *[]byte, size int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queued -= fl.writing
	b, fl.writing = fl.waiting, fl.size
	left := 0
	if b != nil {
		left = cap(*b)
	}
	f.lendLocked(fl, left-fl.lent)
	fl.waiting, fl.count, fl.size = nil, 0, 0
	return b, fl.writing
}

// run carries one flow until it is idle, its stream ends, or ctx does. The error
// is why it has no stream.
func (f *Flows[K]) run(ctx context.Context, fl *flow[K]) error {
	stream, err := f.opts.Open(ctx, fl.key)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.opts.Abort(stream) })
	bare := stream
	if u, ok := stream.(interface{ Unwrap() net.Conn }); ok {
		bare = u.Unwrap()
	}
	f.mu.Lock()
	f.touch(fl)
	fl.direct, _ = bare.(queuer)
	fl.idle = time.AfterFunc(f.patienceLocked(fl), func() { f.watch(fl) })
	f.mu.Unlock()
	var c Carried
	ended := make(chan struct{}) // the stream has
	go func() {
		defer close(ended)
		c.Received, c.Err = f.receive(fl, bare)
	}()
	sent := f.send(ctx, fl, bare, ended)
	fl.idle.Stop()
	cut := !stop() // ctx has ended, and the stream is aborted
	stream.Close()
	<-ended
	f.mu.Lock()
	fl.direct = nil
	c.Sent = sent + fl.sent
	f.mu.Unlock()
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
		for {
			b, size := f.take(fl)
			if b == nil {
				break
			}
			_, err := stream.Write(*b)
			giveBack(b)
			if err != nil {
				return sent
			}
			sent += int64(size)
		}
	}
}

// receive hands on what comes back until the stream ends.
func (f *Flows[K]) receive(fl *flow[K], stream net.Conn) (received int64, err error) {
	answered := false
	out := splitter{canTry: true, emit: func(list [][]byte, wait bool) (int, error) {
		if !answered {
			f.answer(fl)
			answered = true
		}
		f.touch(fl)
		done, err := f.opts.Reply(fl.key, list, wait)
		for _, b := range list[:done] {
			received += int64(len(b))
		}
		return done, err
	}}
	err = out.drain(stream)
	return received, err
}
