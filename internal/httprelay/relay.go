// Package httprelay relays HTTP requests to an upstream at the agent, for
// tunnels whose requests the agent has to look at: to set and remove header
// fields, to give the upstream its own name, or to check signatures. Other
// tunnels' bytes pass unread.
//
//	h, err := httprelay.New(httprelay.Options{Dial: dial, Scheme: "http", Host: "localhost:3000", ...})
//	...
//	http.Serve(streams, h)
//
// The requests come from a server of adit, which has checked and completed them:
// what says who the visitor is goes on as it is.
package httprelay

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"adit/internal/errorpage"
	"adit/internal/expect"
	"adit/internal/headerrule"
	"adit/internal/http1"
	"adit/internal/webhook"
)

const (
	// idleTimeout of conns to the upstream. It is short, since a server may
	// close them at any time, and a POST that meets that cannot be repeated.
	idleTimeout = time.Second

	maxHead    = 64 << 10
	copyBuffer = 32 << 10
)

// Options configures a Relay.
type Options struct {
	// Dial connects to the upstream. It is required unless Handler is set. Its
	// error is what Explain gets.
	Dial func(ctx context.Context) (net.Conn, error)

	// Handler answers instead of an upstream.
	Handler http.Handler

	// Scheme and Host are what the upstream knows itself as: "http" or
	// "https", and a host with the port if it is not the scheme's. Without
	// Host, the upstream gets the visitors' Host.
	Scheme, Host string

	// Request and Response are done to the headers of all requests and
	// responses but those that the relay makes itself. They come last.
	Request, Response headerrule.Rules

	// Webhook, if not nil, has to accept a request before anything else.
	Webhook *webhook.Verifier

	// Explain returns what a visitor is told of an error of Dial.
	Explain func(error) errorpage.Page

	// Logger receives what goes wrong. If nil, nothing is logged.
	Logger *slog.Logger
}

// A Relay is an http.Handler. It is safe for concurrent use.
type Relay struct {
	opts     Options
	host     *hostRewriter // nil leaves names as they are
	handler  http.Handler
	http1    *http.Transport
	http2    *http.Transport
	expects  expect.Upstream
	upstream httputil.ReverseProxy
}

// New returns a relay. The caller calls CloseIdleConnections when it is done
// with it.
func New(opts Options) *Relay {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Relay{opts: opts}
	if opts.Host != "" {
		r.host = &hostRewriter{newOrigin(opts.Scheme, opts.Host)}
	}
	if opts.Handler != nil {
		r.handler = r.around(opts.Handler)
	} else {
		r.http1, r.http2 = r.transport(false), r.transport(true)
		r.upstream = httputil.ReverseProxy{
			Rewrite:        r.rewrite,
			Transport:      r,
			FlushInterval:  -1,
			BufferPool:     buffers,
			ModifyResponse: r.modify,
			ErrorHandler:   r.fail,
			ErrorLog:       slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
		}
		r.handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			ctx := context.WithValue(req.Context(), inKey{}, req)
			w.Header()["Content-Type"] = nil // or net/http would guess what the upstream left open
			r.upstream.ServeHTTP(w, req.WithContext(ctx))
		})
	}
	if opts.Webhook != nil {
		r.handler = opts.Webhook.Handler(r.handler, func(req *http.Request, err error) {
			opts.Logger.Warn("webhook refused", "host", req.Host, "err", err)
		})
	}
	return r
}

// ServeHTTP relays one request.
func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.handler.ServeHTTP(w, req) }

// CloseIdleConnections closes conns to the upstream that carry no request.
func (r *Relay) CloseIdleConnections() {
	if r.http1 != nil {
		r.http1.CloseIdleConnections()
		r.http2.CloseIdleConnections()
	}
}

// A dialError is an error of Options.Dial.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func (r *Relay) transport(http2 bool) *http.Transport {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := r.opts.Dial(ctx)
			if err != nil {
				return nil, &dialError{err}
			}
			return c, nil
		},
		Protocols:              new(http.Protocols),
		DisableCompression:     true, // bodies pass unchanged
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  expect.Wait,
		MaxResponseHeaderBytes: maxHead,
	}
	// The upstream gets the version that the server has chosen for it.
	t.Protocols.SetHTTP1(!http2)
	t.Protocols.SetUnencryptedHTTP2(http2)
	return t
}

// RoundTrip is for the ReverseProxy.
func (r *Relay) RoundTrip(req *http.Request) (*http.Response, error) {
	req = r.expects.Ask(req)
	if req.ProtoMajor == 2 {
		return r.http2.RoundTrip(req)
	}
	return r.http1.RoundTrip(req)
}

// passedOn are the fields that ReverseProxy drops, and that the server has
// written.
var passedOn = []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded"}

// rewrite makes the request for the upstream.
func (r *Relay) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	out.URL.Scheme, out.URL.Host = "http", "upstream"
	out.URL.RawQuery = in.URL.RawQuery // with what ReverseProxy cannot parse
	if target, _, _ := strings.Cut(in.RequestURI, "?"); strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "//") {
		out.URL.Opaque = target // as it was written, to the letter
	}
	out.Host = in.Host
	out.Trailer = in.Trailer // which fills when the body ends
	for _, name := range passedOn {
		if v, ok := in.Header[name]; ok {
			out.Header[name] = append([]string(nil), v...)
		}
	}
	if _, sent := out.Header["User-Agent"]; !sent {
		out.Header["User-Agent"] = nil // or Transport would add its own
	}
	r.changeRequest(out, publicOrigin(in))
}

func (r *Relay) changeRequest(req *http.Request, public origin) {
	if r.host != nil {
		r.host.request(req, public)
	}
	r.opts.Request.Apply(req.Header)
}

// changeResponse changes the header of a response to in.
func (r *Relay) changeResponse(in *http.Request, header http.Header) {
	for name := range header {
		switch http1.KindOf([]byte(name)) {
		case http1.Adit, http1.Lookalike:
			delete(header, name) // they would pass for the agent's own
		}
	}
	if r.host != nil {
		r.host.response(header, publicOrigin(in), in.Header.Get("X-Forwarded-Prefix") != "")
	}
	r.opts.Response.Apply(header)
}

// inKey is the context key of the request as it came.
type inKey struct{}

func (r *Relay) modify(resp *http.Response) error {
	in, _ := resp.Request.Context().Value(inKey{}).(*http.Request)
	if in == nil {
		return errors.New("response without a request")
	}
	r.changeResponse(in, resp.Header)
	return nil
}

// fail answers a request that did not come to a response.
func (r *Relay) fail(w http.ResponseWriter, req *http.Request, err error) {
	if req.Context().Err() != nil {
		panic(http.ErrAbortHandler) // nobody is there any more
	}
	r.opts.Logger.Warn("upstream failed", "err", err)
	page := errorpage.Page{Code: "upstream-closed", Status: http.StatusBadGateway, Text: "The service closed the connection without an answer."}
	dial, dialled := errors.AsType[*dialError](err)
	switch {
	case dialled && r.opts.Explain != nil:
		page = r.opts.Explain(dial.err)
	case strings.Contains(err.Error(), "malformed HTTP"), strings.Contains(err.Error(), "PROTOCOL_ERROR"):
		// Package net/http has no types for it.
		page = errorpage.Page{Code: "upstream-bad-response", Status: http.StatusBadGateway, Text: "The service answered with something other than valid HTTP."}
	}
	page.Write(w, req)
}

// A bufferPool holds buffers for ReverseProxy.
type bufferPool struct{ pool sync.Pool }

var buffers = &bufferPool{sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}}

func (p *bufferPool) Get() []byte  { return *p.pool.Get().(*[]byte) }
func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }
