package agent

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/httpwatch"
	"adit/internal/relay"
	"adit/tunnel"
)

// A Stream is one stream as it was when Options.OnStream was told of it. A TCP
// visitor has a stream to itself; HTTP requests, also of several visitors, may
// follow one another on one.
type Stream struct {
	ID       uint64 // of this stream alone in this process, growing
	Tunnel   tunnel.ID
	Kind     dialect.Kind
	Upstream *Upstream
	Visitor  netip.AddrPort // zero if the server does not say

	Begin    time.Time
	Duration time.Duration // since Begin

	// Reached says that the upstream answered this stream. It is not known of
	// one that is served by this program, even if that asks another upstream.
	Reached bool

	// Done says that the stream has ended, and Refused that it came to
	// nothing because the upstream was not reached: Err is why. Otherwise
	// Err is what broke the stream, and nil if both sides ended it.
	Done, Refused bool
	Err           error

	Received, Sent int64 // bytes from and to the visitor; 0 until Done
}

// A Request is an HTTP request and its response, as they were when
// Options.OnRequest was told of them.
type Request struct {
	ID     uint64 // of this request alone in this process, growing
	Tunnel tunnel.ID
	Stream uint64 // ID of the stream that carries it

	Begin  time.Time // when its head had arrived
	Method string    // cut to 32 bytes
	Target string    // path and query as the upstream gets them, cut to 1 KiB
	Host   string

	Status   int  // of the final response; 0 while there is none
	Upgraded bool // the response is 101: a WebSocket or the like, until Done

	// Duration is the time from Begin to the head of the response, and once
	// Done to its end.
	Duration time.Duration

	// Received and Sent are bytes of content from and to the visitor, and of
	// all that followed an upgrade.
	Received, Sent int64

	Done   bool // nothing follows
	Broken bool // Done, without the whole response having been seen
	Left   bool // Broken, because the visitor went away
}

// roundTripEvery is how often the session is asked for both.
const roundTripEvery = time.Second

// follow tells of s's round trip time and carrier when they change, until ctx or
// s ends.
func (a *Agent) follow(ctx context.Context, s *native.Session) {
	tick := time.NewTicker(roundTripEvery)
	defer tick.Stop()
	var last time.Duration
	var lastCarrier native.Carrier
	for {
		if rtt := s.RoundTrip(); rtt != last && ctx.Err() == nil && a.opts.OnRoundTrip != nil {
			last = rtt
			a.telling.Lock()
			a.opts.OnRoundTrip(rtt)
			a.telling.Unlock()
		}
		if kind := s.Carrier(); kind != lastCarrier && ctx.Err() == nil && a.opts.OnCarrier != nil {
			lastCarrier = kind
			a.telling.Lock()
			a.opts.OnCarrier(kind)
			a.telling.Unlock()
		}
		select {
		case <-tick.C:
		case <-s.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// An observation tells Options' functions of one stream. The nil observation
// is that of an agent whose options have none.
type observation struct {
	opts   *Options
	stream Stream
	http   *httpwatch.Watcher // nil if nobody looks, or there is nothing to see
	left   bool               // the visitor ended the stream; set before http is closed

	upstreamEnded atomic.Bool // before the visitor
}

var lastStream atomic.Uint64

// observe returns the observation of a stream to t.
func (a *Agent) observe(in tunnel.Incoming, t Tunnel) *observation {
	if a.opts.OnStream == nil && a.opts.OnRequest == nil {
		return nil
	}
	o := &observation{opts: &a.opts, stream: Stream{
		ID:       lastStream.Add(1),
		Tunnel:   t.ID,
		Kind:     t.Kind,
		Upstream: t.Upstream,
		Visitor:  in.Info().Visitor,
		Begin:    time.Now(),
	}}
	if a.opts.OnRequest != nil && t.Kind == dialect.HTTP && !t.http2() {
		o.http = httpwatch.New(o.request)
	}
	return o
}

func (o *observation) request(e httpwatch.Exchange) {
	o.opts.OnRequest(Request{
		ID: e.ID, Tunnel: o.stream.Tunnel, Stream: o.stream.ID,
		Begin: e.Begin, Method: e.Method, Target: e.Target, Host: e.Host,
		Status: e.Status, Upgraded: e.Upgraded, Duration: e.Duration,
		Received: e.Received, Sent: e.Sent, Done: e.Done, Broken: e.Broken, Left: e.Broken && o.left,
	})
}

// relayOptions are those of the stream's relay.
func (o *observation) relayOptions() relay.Options {
	opts := relay.Options{Abort: abort}
	if o != nil && o.http != nil {
		opts.FromA = o.http.Request
		opts.FromB = func(p []byte) {
			if len(p) == 0 {
				o.upstreamEnded.Store(true)
			}
			o.http.Response(p)
		}
	}
	return opts
}

// opened tells that the stream is served, by an upstream that was reached or
// by this program.
func (o *observation) opened(reached bool) {
	if o != nil {
		o.stream.Reached = reached
		o.tell()
	}
}

// refused tells that it was not.
func (o *observation) refused(err error) {
	if o != nil {
		o.stream.Done, o.stream.Refused, o.stream.Err = true, true, err
		o.tell()
	}
}

// ended tells of the end of a stream that was opened.
func (o *observation) ended(received, sent int64, err error) {
	if o == nil {
		return
	}
	if o.http != nil {
		re, ok := errors.AsType[*tunnel.ResetError](err)
		o.left = ok && re.Code == tunnel.ResetCancelled && !o.upstreamEnded.Load()
		o.http.Close(err)
	}
	o.stream.Done, o.stream.Err = true, err
	o.stream.Received, o.stream.Sent = received, sent
	o.tell()
}

func (o *observation) tell() {
	if o != nil && o.opts.OnStream != nil {
		o.stream.Duration = time.Since(o.stream.Begin)
		o.opts.OnStream(o.stream)
	}
}
