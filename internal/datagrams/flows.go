package datagrams

import (
	"container/list"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	flowQueue = 64      // datagrams that wait for one flow's stream
	maxQueued = 4 << 20 // bytes of those that wait for the streams of a socket

	// newcomer is for how long a flow keeps its place though nothing answers.
	newcomer = time.Second
)

// FlowOptions configures Flows. Open, Max and Abort are required.
type FlowOptions[K comparable] struct {
	// Open opens the stream of a flow. ctx ends with the flows, and Open sees
	// to a deadline. With an error the flow ends, and its datagrams are lost;
	// Open logs why.
	Open func(ctx context.Context, key K) (net.Conn, error)

	// Abort ends a stream so that its far side knows that it was cut.
	Abort func(stream net.Conn)

	// Max is how many flows there are at a time. One more takes the place of
	// the oldest that nothing has answered within a second, or is lost.
	Max int

	// Idle is for how long a flow may carry nothing, and Unanswered for how
	// long one to which nothing has come back; 0 means IdleTimeout, and Idle.
	Idle, Unanswered time.Duration

	// Ended is called for each flow whose stream was opened, with the bytes of
	// its datagrams; nil is not called.
	Ended func(key K, sent, received int64)
}

// Flows are the streams of one UDP socket: one for each key, such as a sender. A
// datagram that finds no room is lost, as datagrams are. Its methods are safe
// for concurrent use.
type Flows[K comparable] struct {
	opts FlowOptions[K]
	ctx  context.Context // ends the flows

	running sync.WaitGroup
	queued  atomic.Int64 // bytes

	mu         sync.Mutex // guards the fields below, and those of flows
	by         map[K]*flow[K]
	unanswered *list.List // of *flow[K], the oldest first
}

// A flow is one stream, or one that is being opened.
type flow[K comparable] struct {
	key    K
	queue  chan []byte
	reply  func(b []byte) error
	cancel context.CancelFunc
	began  time.Time
	at     *list.Element // in Flows.unanswered; nil once something has come back
}

// NewFlows returns Flows without any. They end with ctx.
func NewFlows[K comparable](ctx context.Context, opts FlowOptions[K]) *Flows[K] {
	if opts.Idle <= 0 {
		opts.Idle = IdleTimeout
	}
	if opts.Unanswered <= 0 {
		opts.Unanswered = opts.Idle
	}
	return &Flows[K]{opts: opts, ctx: ctx, by: make(map[K]*flow[K]), unanswered: list.New()}
}

// Wait waits until all flows have ended, after ctx has.
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
	if f.queued.Add(int64(len(b))) > maxQueued {
		f.queued.Add(-int64(len(b)))
		return false
	}
	packet := make([]byte, HeadLen+len(b))
	copy(packet[HeadLen:], b)
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := f.by[key]
	if fl == nil {
		fl = f.addLocked(key, reply)
	}
	if fl != nil {
		select {
		case fl.queue <- packet:
			return true
		default:
		}
	}
	f.queued.Add(-int64(len(b)))
	return false
}

// addLocked begins a flow, or returns nil.
func (f *Flows[K]) addLocked(key K, reply func(b []byte) error) *flow[K] {
	if f.ctx.Err() != nil || len(f.by) >= f.opts.Max && !f.displaceLocked() {
		return nil
	}
	ctx, cancel := context.WithCancel(f.ctx)
	fl := &flow[K]{key: key, queue: make(chan []byte, flowQueue), reply: reply, cancel: cancel, began: time.Now()}
	fl.at = f.unanswered.PushBack(fl)
	f.by[key] = fl
	f.running.Go(func() {
		defer f.forget(fl)
		f.run(ctx, fl)
	})
	return fl
}

// displaceLocked makes room for one flow, if there is one to displace.
func (f *Flows[K]) displaceLocked() bool {
	e := f.unanswered.Front()
	if e == nil {
		return false
	}
	fl := e.Value.(*flow[K])
	if time.Since(fl.began) < newcomer {
		return false
	}
	f.dropLocked(fl)
	return true
}

func (f *Flows[K]) dropLocked(fl *flow[K]) {
	fl.cancel()
	if f.by[fl.key] == fl {
		delete(f.by, fl.key)
	}
	if fl.at != nil {
		f.unanswered.Remove(fl.at)
		fl.at = nil
	}
}

func (f *Flows[K]) forget(fl *flow[K]) {
	f.mu.Lock()
	f.dropLocked(fl)
	f.mu.Unlock()
	for { // nobody finds the flow any more: nothing is added
		select {
		case b := <-fl.queue:
			f.queued.Add(-int64(len(b) - HeadLen))
		default:
			return
		}
	}
}

// answered notes that something has come back.
func (f *Flows[K]) answered(fl *flow[K]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.at != nil {
		f.unanswered.Remove(fl.at)
		fl.at = nil
	}
}

// run carries one flow until it is idle, its stream ends, or ctx does.
func (f *Flows[K]) run(ctx context.Context, fl *flow[K]) {
	stream, err := f.opts.Open(ctx, fl.key)
	if err != nil {
		return
	}
	var sent, received int64
	stop := context.AfterFunc(ctx, func() { f.opts.Abort(stream) })
	idle := time.AfterFunc(f.opts.Unanswered, fl.cancel)
	var patience atomic.Int64 // of idle
	patience.Store(int64(f.opts.Unanswered))
	ended := make(chan struct{}) // the stream has
	go func() {
		defer close(ended)
		in := NewReader(stream)
		defer in.Release()
		for first := true; ; first = false {
			b, err := in.Next()
			if err != nil {
				return
			}
			if first {
				f.answered(fl)
				patience.Store(int64(f.opts.Idle))
			}
			idle.Reset(f.opts.Idle)
			received += int64(len(b))
			fl.reply(b) // what cannot be sent is lost
		}
	}()
	for err == nil {
		select {
		case b := <-fl.queue:
			f.queued.Add(-int64(len(b) - HeadLen))
			idle.Reset(time.Duration(patience.Load()))
			sent += int64(len(b) - HeadLen)
			err = Write(stream, b)
		case <-ended:
			err = net.ErrClosed
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	idle.Stop()
	stop() // or ctx has ended, and the stream is aborted
	stream.Close()
	<-ended
	if f.opts.Ended != nil {
		f.opts.Ended(fl.key, sent, received)
	}
}
