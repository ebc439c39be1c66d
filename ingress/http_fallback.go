package ingress

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/http1"
	"adit/internal/replay"
	"adit/policy"
	"adit/tunnel"
)

// A fallback relays requests with package net/http, where the relay of our own
// does not: for tunnels that carry HTTP messages and no streams, for requests
// that follow one of the server's own on the same conn, and for whoever calls
// HTTP.ServeHTTP.
type fallback struct {
	h     *HTTP
	relay httputil.ReverseProxy

	mu         sync.Mutex // guards the fields below
	transports map[transportKey]*pooled
}

// A routed is what is known of a request in the fallback.
type routed struct {
	Target
	in      *http.Request // as the visitor sent it
	key     string        // that was routed
	general policy.Pass   // of HTTP's own policy
	passed  *policy.Guard // that has let the request in last, beside it
	pass    policy.Pass   // of both
	prefix  string        // of the request's path that the upstream does not see
	shown   string        // and what visitors see there, which may be longer: see mountOf
	target  string        // for the upstream, where there are Rules
	err     error
	code    string // of an agent that answered by itself
	at      time.Duration
	waited  time.Duration // for an agent
	tries   int
	tried   []tunnel.Tunnel // that would fail again
	span    Span
	body    *countingBody
	out     *recorder
}

type routedKey struct{}

func routedOf(r *http.Request) *routed { return r.Context().Value(routedKey{}).(*routed) }

func (f *fallback) init(h *HTTP) {
	f.h = h
	f.transports = make(map[transportKey]*pooled)
	f.relay = httputil.ReverseProxy{
		Rewrite:        f.rewrite,
		Transport:      f,
		FlushInterval:  -1,
		ModifyResponse: f.modify,
		ErrorHandler:   f.fail,
		ErrorLog:       log.New(logWriter{h}, "", 0),
	}
}

func (f *fallback) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.serve(w, r, nil) }

// serve is ServeHTTP; general is what HTTP's own policy said of the request, if
// it was asked before.
func (f *fallback) serve(w http.ResponseWriter, r *http.Request, general *policy.Pass) {
	to := &routed{at: f.h.now(), body: &countingBody{ReadCloser: r.Body, r: r}}
	r = r.WithContext(context.WithValue(r.Context(), routedKey{}, to))
	to.in, to.body.r = r, r
	rec := &recorder{ResponseWriter: w}
	to.out = rec
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = to.body
	}
	f.h.counters.byPackage.Add(1)
	defer f.h.counters.byPackage.Add(-1)
	defer f.report(rec, r, to)
	f.follow(r, to)

	target := targetOf(r)
	err := http1.Parsed{Method: r.Method, Target: target, Host: r.Host, Fields: r.Header}.Check(f.h.limits())
	if err == nil && r.Host == "" && r.ProtoAtLeast(1, 1) {
		err = http1.ErrNoHost
	}
	switch {
	case err != nil:
	case general != nil:
		to.general, to.pass = *general, *general
	default:
		if g := f.h.guard.Load(); g != nil {
			to.general, err = g.Admit(r.Context(), f.policyRequest(to))
			to.pass = to.general
		}
	}
	if err == nil {
		err = f.route(r, to)
	}
	if err == errNoSlash {
		u := url.URL{Path: to.shown + "/", RawQuery: r.URL.RawQuery}
		http.Redirect(rec, r, u.String(), http.StatusPermanentRedirect)
		return
	}
	if err == nil {
		err = f.admit(to)
	}
	if err != nil {
		f.fail(rec, r, err)
		return
	}
	if r.Body != nil && r.Body != http.NoBody && to.pass.MaxBody > 0 {
		r.Body = &limitedBody{r.Body, to.pass.MaxBody, to.pass.MaxBody}
	}
	if to.pass.Redirect != nil {
		for _, field := range redirectFields(to.pass.Redirect) {
			rec.Header().Set(field[0], field[1])
		}
		rec.WriteHeader(http.StatusSeeOther)
		return
	}
	rec.Header()["Content-Type"] = nil // or net/http would guess what the upstream left open
	f.relay.ServeHTTP(rec, r)
}

// targetOf returns the request's target in origin-form.
func targetOf(r *http.Request) string {
	if r.ProtoMajor == 1 && !strings.HasPrefix(r.RequestURI, "/") && r.RequestURI != "*" {
		return r.URL.RequestURI() // it is absolute
	}
	return r.RequestURI
}

// find asks the router for the visitor.
func (f *fallback) find(r *http.Request, to *routed, key string) (Target, error) {
	return find(r.Context(), f.h.opts.Router, key, Ask{f.visitorOf(to.in).Addr(), to.tried})
}

// route finds the request's tunnel, again if it had one.
func (f *fallback) route(r *http.Request, to *routed) (err error) {
	began := f.h.now()
	defer func() { to.waited += f.h.now() - began }()
	if to.key != "" {
		to.Target, err = f.find(r, to, to.key)
		return err
	}
	if f.h.misdirected(r.TLS, []byte(r.Host)) {
		return errMisdirected
	}
	if f.h.opts.Rules != nil {
		return f.routeByRules(r, to)
	}
	to.shown = mountOf(r)
	name := f.h.parseHost([]byte(r.Host))
	err = ErrNoRoute
	if name.key != "" {
		to.key = name.key
		to.Target, err = f.find(r, to, name.key)
	}
	if err != nil && name.paths && errors.Is(err, ErrNoRoute) {
		target := r.URL.EscapedPath()
		if id, ok := pathID([]byte(target)); ok {
			to.prefix = "/" + string(id)
			to.shown += to.prefix
			to.key = to.prefix
			to.Target, err = f.find(r, to, to.prefix)
			if err == nil && target == to.prefix {
				return errNoSlash
			}
		}
	}
	if err == nil && to.TLS {
		err = errMisdirected
	}
	return err
}

// rewrite makes the request for the upstream. ReverseProxy has taken out what
// is for one hop, and all forwarded fields.
func (f *fallback) rewrite(pr *httputil.ProxyRequest) {
	to := routedOf(pr.In)
	out := pr.Out
	out.URL.Scheme, out.URL.Host = "http", upstreamHost
	out.URL.Path = strings.TrimPrefix(out.URL.Path, to.prefix)
	out.URL.RawPath = strings.TrimPrefix(out.URL.RawPath, to.prefix)
	out.URL.RawQuery = pr.In.URL.RawQuery // with what ReverseProxy cannot parse
	out.Trailer = pr.In.Trailer           // which fills when the body ends
	if out.Host == "" {
		if out.Host = f.h.opts.Domain; out.Host == "" {
			out.Host = "localhost"
		}
	}
	if name := pathHeader(to.Tunnel); name != "" {
		defer func() { out.Header.Set(name, decodedPath(targetOf(to.in))) }()
	}
	if f.h.opts.Rules != nil {
		f.rewriteByRules(pr.In, out, to)
		return
	}
	for name := range out.Header {
		switch http1.KindOf([]byte(name)) {
		case http1.Adit, http1.Lookalike, http1.ForwardedOther, http1.HopByHop:
			delete(out.Header, name)
		}
	}
	strip(out.Header, to.pass)
	if _, sent := out.Header["User-Agent"]; !sent {
		out.Header["User-Agent"] = nil // or Transport would add its own
	}
	peer, _ := netip.ParseAddrPort(pr.In.RemoteAddr)
	addr := peer.Addr().Unmap().WithZone("")
	proto, host := f.h.schemeOf(pr.In.TLS != nil), out.Host
	forFor, forFwd := forwardedBy(addr, proto)
	element := forFwd + ";host=" + quoteHost(out.Host)
	if f.h.trusts(addr) {
		in := pr.In.Header
		forFor = strings.Join(append(in.Values("X-Forwarded-For"), forFor), ", ")
		element = strings.Join(append(in.Values("Forwarded"), element), ", ")
		if p, ok := forwardedProtoOf(in); ok {
			proto = p
		}
		if h := in.Values("X-Forwarded-Host"); len(h) == 1 {
			if _, _, ok := http1.SplitHost([]byte(h[0])); ok {
				host = h[0]
			}
		}
	}
	if to.span != nil {
		parent, continues := to.span.Traceparent()
		if !continues {
			out.Header.Del(tracestate)
		}
		out.Header.Set(traceparent, parent)
	}
	out.Header.Set("X-Forwarded-For", forFor)
	out.Header.Set("X-Forwarded-Host", host)
	out.Header.Set("X-Forwarded-Proto", proto)
	out.Header.Set("Forwarded", element)
	if to.shown != "" {
		out.Header.Set("X-Forwarded-Prefix", to.shown)
	}
}

func quoteHost(host string) string {
	if strings.ContainsAny(host, ":[") {
		return `"` + host + `"`
	}
	return host
}

func (f *fallback) modify(resp *http.Response) error {
	to := routedOf(resp.Request)
	to.out.whole = resp.ContentLength == 0
	for name, values := range resp.Header {
		if f.h.opts.Rules != nil {
			break
		}
		switch http1.KindOf([]byte(name)) {
		case http1.Adit:
			if to.pass.AgentErrors && len(values) == 1 && isAgentError([]byte(name), []byte(values[0])) {
				to.code = values[0]
				continue
			}
			delete(resp.Header, name)
		case http1.Lookalike, http1.HopByHop:
			delete(resp.Header, name)
		}
	}
	if len(resp.Trailer) > 0 {
		resp.Header.Del("Content-Length") // in HTTP/1.1 only a chunked body has a trailer
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = &trailedBody{resp.Body, resp}
	}
	if to.shown == "" {
		return nil
	}
	if l := resp.Header.Get("Location"); l != "" {
		resp.Header.Set("Location", string(appendLocation(nil, []byte(l), []byte(resp.Request.Host), to.shown)))
	}
	for i, c := range resp.Header["Set-Cookie"] {
		resp.Header["Set-Cookie"][i] = string(appendCookie(nil, []byte(c), to.shown))
	}
	return nil
}

// fail is ReverseProxy's ErrorHandler too.
func (f *fallback) fail(w http.ResponseWriter, r *http.Request, err error) {
	to := routedOf(r)
	to.err = err
	if r.Context().Err() != nil {
		to.err = errVisitorLeft
		panic(http.ErrAbortHandler)
	}
	if err = unasked(err, r.TLS, r.Host); err == errMisdirected {
		to.err = err
	}
	p := explain(err)
	switch {
	case p.code == probCertificate.code:
		w.Header().Set("Connection", "close") // it could show another one on a new conn alone
	case p == probBody && r.ProtoMajor == 1:
		w.Header().Set("Connection", "close") // or net/http would wait for the rest of the body
	}
	f.h.writeProblem(w, r, p, r.Host)
}

// follow asks the tracer about a request.
func (f *fallback) follow(r *http.Request, to *routed) {
	if f.h.opts.Tracer == nil {
		return
	}
	value := ""
	if sent := r.Header.Values(traceparent); len(sent) == 1 {
		value = sent[0]
	}
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	to.span = f.h.opts.Tracer.Trace(value, f.h.trusts(peer.Addr().Unmap().WithZone("")))
}

func (f *fallback) report(w *recorder, r *http.Request, to *routed) {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	done := Finished{
		Remote:    netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port()),
		Method:    r.Method,
		Host:      r.Host,
		Path:      pathOf(targetOf(r)),
		Proto:     r.Proto,
		Secure:    r.TLS != nil,
		UserAgent: r.UserAgent(),
		Referer:   r.Referer(),
		Service:   to.Service,
		Status:    w.status,
		Received:  to.body.n.Load(),
		Sent:      w.sent,
		Duration:  f.h.now() - to.at,
		Waited:    to.waited,
		Tries:     to.tries,
		Trace:     traceOf(to.span),
	}
	if to.Tunnel != nil {
		done.ID = to.id()
	}
	done.Code = to.code
	if to.err != nil {
		p := explain(to.err)
		done.Status, done.Code = p.status, p.code
	}
	took := done.Duration
	if done.Status == http.StatusSwitchingProtocols {
		took = -1
	}
	f.h.counters.done(done.Status, done.Code, done.Received, done.Sent, took)
	f.h.tell(to.span, done)
}

// A recorder notes what was sent.
type recorder struct {
	http.ResponseWriter
	status int
	sent   int64

	// whole says that the response ends with its head. ReverseProxy flushes
	// the head of each response when it gets to it, and HTTP/2 then cannot end
	// the stream with it, which is what tells a visitor of gRPC that the
	// status is in the head.
	whole bool
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// FlushError is for http.ResponseController.
func (w *recorder) FlushError() error {
	if w.whole {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack lets ReverseProxy take over the conn. What the visitor sent ahead of the
// answer is still to be read from it, and ReverseProxy does not look for that.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return replay.Buffered(c, rw.Reader), rw, nil
}

func (w *recorder) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// A countingBody counts the bytes of a request's body.
type countingBody struct {
	io.ReadCloser
	r *http.Request
	n atomic.Int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	if err == io.EOF {
		dropForbidden(b.r.Trailer)
	}
	return n, err
}

// dropForbidden takes out of a trailer section what must not be in one.
func dropForbidden(trailer http.Header) {
	for name := range trailer {
		if !http1.AllowedInTrailer([]byte(name)) {
			delete(trailer, name)
		}
	}
}

// A trailedBody is the body of a response with a trailer section.
type trailedBody struct {
	io.ReadCloser
	resp *http.Response
}

func (b *trailedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		dropForbidden(b.resp.Trailer)
	}
	return n, err
}
