package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"

	"adit/internal/expect"
	"adit/tunnel"
)

// A transportKey names what a transport's streams lead to.
type transportKey struct {
	streamKey
	http2 bool
}

// An openError is why a stream was not opened: nothing of a request has been
// sent.
type openError struct{ err error }

func (e *openError) Error() string { return fmt.Sprintf("open stream: %v", e.err) }
func (e *openError) Unwrap() error { return e.err }

// RoundTrip sends a request through its tunnel, and through another one if that
// fails before anything was delivered, or where a second delivery does no harm.
func (f *fallback) RoundTrip(r *http.Request) (*http.Response, error) {
	to := routedOf(r)
	body := r.Body
	if body != nil {
		defer func() { r.Body = body }()
	}
	first := f.h.now()
	for try := 1; ; try++ {
		to.tries = try
		if try > 1 {
			f.h.counters.retries.Add(1)
		}
		target := to.Target
		held := &heldBody{ReadCloser: body}
		if body != nil {
			r.Body = held
		}
		resp, err := f.sendWhileAlive(target, r, body == nil)
		if err == nil {
			held.letGo()
			return resp, nil
		}
		again, refused := sendAgain(r, err, body == nil)
		if _, lost := err.(*givenUpError); refused || lost {
			to.tried = append(to.tried, target.Tunnel)
			again = true
		}
		if !again || try >= target.tries(maxTries) || f.h.now()-first > retryWithin || r.Context().Err() != nil {
			return nil, f.giveUp(body, err)
		}
		if rerr := f.route(r, to); rerr != nil || slices.Contains(to.tried, to.Tunnel) {
			return nil, f.giveUp(body, err)
		}
		switch same, perr := f.admitAgain(to); {
		case perr != nil:
			return nil, f.giveUp(body, perr)
		case !same:
			return nil, f.giveUp(body, err)
		}
	}
}

func (f *fallback) giveUp(body io.Closer, err error) error {
	if body != nil {
		body.Close()
	}
	if explain(err) == probInternal {
		return &upstreamError{"use", err}
	}
	return err
}

// sendAgain reports whether a request that failed with err may be sent again,
// and whether the tunnel refused it. A body that was begun is gone.
func sendAgain(r *http.Request, err error, noBody bool) (again, refused bool) {
	if open, ok := errors.AsType[*openError](err); ok {
		_, refused := errors.AsType[*tunnel.RefusedError](open)
		return refused || errors.Is(open, tunnel.ErrClosed), refused
	}
	if !noBody || !idempotent([]byte(r.Method)) {
		return false, false
	}
	p := explain(err)
	return p == probClosed || p == probInternal || errors.Is(err, tunnel.ErrClosed), false
}

// A givenUpError says that a target was given up before it answered.
type givenUpError struct{ err error }

func (e *givenUpError) Error() string { return e.err.Error() }
func (e *givenUpError) Unwrap() error { return e.err }

// sendWhileAlive is send. As long as the request may be sent again, it fails
// with a *givenUpError when the target is given up before it answers: that is
// until a stream has the request, or always if a second delivery does no harm.
func (f *fallback) sendWhileAlive(to Target, r *http.Request, noBody bool) (*http.Response, error) {
	twice := noBody && idempotent([]byte(r.Method))
	_, itself := to.Tunnel.(http.RoundTripper) // it does not tell when it has the request
	if to.Alive == nil || itself && !twice {
		return f.send(to, r)
	}
	// It ends with the request, for the response's body is read under it.
	ctx, cancel := context.WithCancel(r.Context())
	var mu sync.Mutex
	given := false // to a stream
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		mu.Lock()
		given = true
		mu.Unlock()
	}}
	wait := context.AfterFunc(to.Alive, func() {
		mu.Lock()
		defer mu.Unlock()
		if twice || !given {
			cancel()
		}
	})
	resp, err := f.send(to, r.WithContext(httptrace.WithClientTrace(ctx, trace)))
	waited := !wait()
	mu.Lock()
	defer mu.Unlock()
	switch {
	case !waited, given && !twice:
		return resp, err
	case err == nil:
		resp.Body.Close()
		err = errGivenUp
	case r.Context().Err() != nil:
		return nil, err
	}
	return nil, &givenUpError{&upstreamError{"read", err}}
}

// A heldBody is a request's body that outlives an attempt to send it: a
// transport closes what it has not begun to read when no stream can be opened.
type heldBody struct {
	io.ReadCloser

	mu     sync.Mutex // guards the fields below
	closed bool       // as far as the transport is concerned
	free   bool       // there will be no other attempt
}

// Close closes the body if there will be no other attempt.
func (b *heldBody) Close() error {
	b.mu.Lock()
	b.closed = true
	free := b.free
	b.mu.Unlock()
	if !free {
		return nil
	}
	return b.ReadCloser.Close()
}

// letGo says that the attempt has come as far as a response.
func (b *heldBody) letGo() {
	b.mu.Lock()
	b.free = true
	closed := b.closed
	b.mu.Unlock()
	if closed {
		b.ReadCloser.Close()
	}
}

// send sends a request to a target.
func (f *fallback) send(to Target, r *http.Request) (*http.Response, error) {
	if to.HTTP2 && r.Header.Get("Upgrade") != "" {
		return nil, fmt.Errorf("upgrade over HTTP/2: %w", errors.ErrUnsupported)
	}
	if rt, ok := to.Tunnel.(http.RoundTripper); ok {
		return rt.RoundTrip(r)
	}
	r.URL.Host = upstreamHost
	if to.PerVisitor {
		r.URL.Host = hostFor(f.visitorOf(routedOf(r).in))
	}
	t := f.transport(transportKey{streamKey{to.Tunnel, to.Service}, to.HTTP2})
	resp, err := t.RoundTrip(t.expects.Ask(r))
	if err != nil && isNotHTTP(err) {
		return nil, &badResponse{err}
	}
	return resp, err
}

var notHTTP = []string{
	"malformed HTTP", "http2: frame too large", "PROTOCOL_ERROR", "FRAME_SIZE_ERROR",
	"http2: client conn could not be established", // it ended before a first frame
}

// isNotHTTP reports whether what came from an upstream is no HTTP of the
// version that was spoken to it. Package net/http has no types for it.
func isNotHTTP(err error) bool {
	text := err.Error()
	return slices.ContainsFunc(notHTTP, func(s string) bool { return strings.Contains(text, s) })
}

// A pooled is a transport that pools the streams of a tunnel's service.
type pooled struct {
	*http.Transport
	expects expect.Upstream
}

// transport returns what pools the streams of a tunnel's service.
func (f *fallback) transport(key transportKey) *pooled {
	f.mu.Lock()
	t := f.transports[key]
	if t == nil {
		t = f.newTransport(key)
		f.transports[key] = t
		defer f.watch(key.tunnel, t)
	}
	f.mu.Unlock()
	return t
}

// watch ends idle streams when the tunnel is not available: an agent that
// drains waits for them.
func (f *fallback) watch(tun tunnel.Tunnel, t *pooled) {
	a, ok := tun.(tunnel.Availability)
	if !ok {
		return
	}
	a.OnAvailability(func() {
		if !a.Available() {
			t.CloseIdleConnections()
		}
	})
}

func (f *fallback) newTransport(key transportKey) *pooled {
	t := &pooled{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, f.h.opts.OpenTimeout)
			defer cancel()
			f.h.counters.streams.opened.Add(1)
			c, err := key.tunnel.OpenStream(ctx, tunnel.StreamInfo{Service: key.service, Protocol: "http", Visitor: visitorIn(addr)})
			if err != nil {
				return nil, &openError{err}
			}
			return c, nil
		},
		Protocols:              new(http.Protocols),
		DisableCompression:     true, // bodies pass unchanged
		MaxIdleConns:           f.h.opts.MaxIdleStreams,
		MaxIdleConnsPerHost:    f.h.opts.MaxIdleStreams,
		IdleConnTimeout:        idleLimit,
		ExpectContinueTimeout:  expect.Wait,
		ResponseHeaderTimeout:  f.h.opts.ResponseTimeout,
		MaxResponseHeaderBytes: int64(f.h.opts.MaxHeadBytes),
	}}
	if _, once := key.tunnel.(oneRequest); once {
		t.MaxIdleConnsPerHost = -1 // unlike DisableKeepAlives it does not show in requests
	}
	if key.http2 {
		t.Protocols.SetUnencryptedHTTP2(true) // the stream is the agent's to encrypt
	} else {
		t.Protocols.SetHTTP1(true)
	}
	return t
}

// sweep forgets tunnels that ended.
func (f *fallback) sweep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, t := range f.transports {
		if ended(key.tunnel.Done()) {
			t.CloseIdleConnections()
			delete(f.transports, key)
		}
	}
}

func (f *fallback) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, t := range f.transports {
		t.CloseIdleConnections()
		delete(f.transports, key)
	}
}
