package ingress

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"adit/internal/http1"
	"adit/policy"
	"adit/tunnel"
)

// ownPath is where the server's own paths begin.
const ownPath = "/_adit/"

// serveRequest reads one request and answers it.
func (v *visitor) serveRequest() end {
	ex := v.ex
	ex.req = http1.Request{Fields: ex.req.Fields[:0]}
	n, err := v.readHead()
	ex.start = v.h.now()
	if err == io.EOF {
		return closeConn
	}
	if err == nil {
		head := ex.unread()[:n]
		ex.used = n
		err = ex.req.Parse(head, v.h.limits())
	}
	if err == http1.ErrVersion && v.speaksH2C() {
		return v.handOff(nil)
	}
	if err != nil {
		ex.req.KeepAlive = false
		ex.bodyLeft = -1
		return v.report(v.fail(err))
	}
	if !v.spoken {
		v.spoken = true
		v.tls = tlsState(v.conn)
	}
	if v.mustUpgrade() {
		return v.report(v.toTLS())
	}
	own := hasPrefix(ex.req.Target, ownPath)
	ask := own || ex.req.Upgrade != nil && v.h.opts.Own != nil
	if v.h.opts.Rules != nil {
		own, ask = false, v.isOwnByRules()
		if string(ex.req.Target) == "*" {
			return v.report(v.answerOptions())
		}
	}
	if ask {
		if handler := v.askOwn(ex.in[ex.r : ex.r+n]); handler != nil {
			return v.handOff(handler)
		}
		if own {
			return v.report(v.fail(errNotFound))
		}
	}
	last := v.relay()
	if v.ex == nil {
		return last // who took the exchange reports
	}
	return v.report(last)
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

// route finds the tunnel and the service of the request.
func (v *visitor) route() (to Target, err error) {
	ex := v.ex
	if ex.key != "" { // again, after a try that failed
		return v.find(ex.key)
	}
	if v.h.opts.Rules != nil {
		return v.routeByRules()
	}
	name := v.lookAt(ex.req.Host)
	if name.misdirected {
		return Target{}, errMisdirected
	}
	if name.key != "" {
		to, err = v.find(name.key)
		if err == nil || !name.paths || !errors.Is(err, ErrNoRoute) {
			ex.key, ex.target = name.key, ex.req.Target
			return to, err
		}
	}
	if !name.paths {
		return Target{}, ErrNoRoute
	}
	id, ok := pathID(ex.req.Target)
	if !ok {
		return Target{}, ErrNoRoute
	}
	if string(ex.req.Target[:1+len(id)]) != v.pathKey {
		v.pathKey = string(ex.req.Target[:1+len(id)])
	}
	to, err = v.find(v.pathKey)
	ex.key, ex.prefix = v.pathKey, v.pathKey
	ex.target = ex.req.Target[len(v.pathKey):]
	if err == nil && (len(ex.target) == 0 || ex.target[0] == '?') {
		return to, errNoSlash
	}
	return to, err
}

// find asks the router for the visitor.
func (v *visitor) find(key string) (Target, error) {
	return find(v.ctx, v.h.opts.Router, key, Ask{v.visitorAddr(), v.ex.tried})
}

// routeTimed is route. It takes note of how long that took, if anybody will
// want to know: as a rule the agent is there, and it takes no time.
func (v *visitor) routeTimed() (Target, error) {
	if v.h.opts.OnRequest == nil && v.ex.span == nil {
		return v.route()
	}
	began := v.h.now()
	to, err := v.route()
	v.ex.waited += v.h.now() - began
	return to, err
}

// relay sends the request to an upstream and the response to the visitor.
func (v *visitor) relay() end {
	ex := v.ex
	var (
		cause error // why the last try failed
		built bool
	)
	v.follow()
	v.startWatch()
	if g := v.h.guard.Load(); g != nil {
		var err error
		if ex.general, err = g.Admit(v.ctx, v.policyRequest()); err != nil {
			return v.fail(err)
		}
		ex.pass = ex.general
	}
	first := v.h.now()
	for try := 1; ; try++ {
		to, err := v.routeTimed()
		t := to.Tunnel
		ex.service = to.Service
		if to.Tunnel != nil {
			ex.id = to.id()
		}
		switch {
		case v.gone.Load():
			return v.fail(errVisitorLeft)
		case err == errNoSlash:
			return v.redirect(v.pathKey + "/" + string(ex.req.Target[len(v.pathKey):]))
		case err != nil && cause != nil:
			return v.fail(cause)
		case err != nil:
			return v.fail(err)
		case to.TLS:
			return v.fail(errMisdirected)
		case slices.Contains(ex.tried, t): // it would fail again
			return v.fail(cause)
		}
		if _, ok := t.(http.RoundTripper); ok || to.HTTP2 {
			general := ex.general
			return v.handOff(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				v.h.fallback.serve(w, r, &general)
			}))
		}
		ex.tunnel = t
		if to.Policy != ex.passed {
			before := ex.pass
			if err := v.admit(to.Policy); err != nil {
				return v.fail(err)
			}
			if built && !ex.pass.Same(before) {
				v.rebuildHead()
			}
		}
		if header := pathHeader(t); header != ex.pathHeader {
			ex.pathHeader = header
			if built {
				v.rebuildHead()
			}
		}
		if ex.pass.Redirect != nil {
			return v.redirectTo(ex.pass.Redirect)
		}
		if !built {
			if err := v.buildRequest(); err != nil {
				return v.fail(err)
			}
			built = true
		}
		ex.tries = try
		if try > 1 {
			v.h.counters.retries.Add(1)
		}
		s, err := v.open(to)
		delivered := err == nil
		if err == nil {
			var last end
			if last, err = v.attempt(s, to); err == nil {
				return last
			}
		}
		if cause = err; v.gone.Load() {
			return v.fail(errVisitorLeft)
		}
		var no *tunnel.RefusedError
		switch {
		case errors.As(err, &no):
			v.h.counters.streams.refusal(err)
			ex.tried = append(ex.tried, t) // nothing reached the upstream
		case to.givenUp() && (!delivered || idempotent(ex.req.Method)):
			ex.tried = append(ex.tried, t)
		case !delivered && errors.Is(err, tunnel.ErrClosed):
		case delivered && idempotent(ex.req.Method) && probClosed == explain(err) && (v.h.opts.Rules == nil || s.reused),
			delivered && idempotent(ex.req.Method) && errors.Is(err, tunnel.ErrClosed):
		default:
			return v.fail(err)
		}
		if ex.upload != nil || try >= to.tries(maxTries) || v.h.now()-first > retryWithin {
			return v.fail(err)
		}
	}
}

// idempotent reports whether a request may be sent again although it may have
// been carried out (RFC 9110, section 9.2.2).
func idempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// buildRequest puts the head for the upstream into ex.out, and behind it what
// has arrived of the body.
func (v *visitor) buildRequest() error {
	ex := v.ex
	if ex.req.Framing != http1.NoBody {
		v.stopWatch() // it would read of the body
	}
	ex.out = v.appendRequestHead(ex.out[:0])
	ex.head = len(ex.out)
	return v.takeBody()
}

// rebuildHead puts another head before what has been taken of the body.
func (v *visitor) rebuildHead() {
	ex := v.ex
	body := bytes.Clone(ex.out[ex.head:])
	ex.out = v.appendRequestHead(ex.out[:0])
	ex.head = len(ex.out)
	ex.out = append(ex.out, body...)
}

// appendRequestHead appends the head that the upstream gets.
func (v *visitor) appendRequestHead(out []byte) []byte {
	ex := v.ex
	req := &ex.req
	strip := ex.pass.DropAuthorization || ex.pass.DropCookies
	parent, continues := "", true
	if ex.span != nil {
		parent, continues = ex.span.Traceparent()
	}
	out = append(out, req.Method...)
	out = append(out, ' ')
	out = append(out, ex.target...)
	out = append(out, " HTTP/1.1\r\nHost: "...)
	out = append(out, v.hostForUpstream()...)
	out = append(out, "\r\n"...)
	if v.h.opts.Rules != nil {
		return v.appendFraming(v.appendPath(v.appendFieldsByRules(out)))
	}
	for i := range req.Fields {
		f := &req.Fields[i]
		switch f.Kind {
		case http1.Other, http1.Accept, http1.Date, http1.Location, http1.SetCookie:
			switch {
			case f.Hop, ex.pathHeader != "" && strings.EqualFold(string(f.Name), ex.pathHeader):
			case parent != "" && ofTrace(f.Name, continues):
			case strip:
				out = appendStripped(out, f, ex.pass)
			default:
				out = http1.AppendField(out, f.Name, f.Value)
			}
		case http1.Expect:
			if req.Expect100 {
				out = http1.AppendField(out, f.Name, f.Value)
			}
		case http1.ContentLength:
			if req.Framing == http1.NoBody {
				out = append(out, "Content-Length: 0\r\n"...)
			}
		case http1.Trailer:
			if req.Framing == http1.Chunked && announcesOnlyAllowed(f.Value) {
				out = http1.AppendField(out, f.Name, f.Value)
			}
		}
	}
	out = v.appendPath(v.appendForwarded(out))
	if parent != "" {
		out = append(out, "traceparent: "...)
		out = append(out, parent...)
		out = append(out, "\r\n"...)
	}
	return v.appendFraming(out)
}

// appendFraming appends what ends the head: the fields about this conn and
// about the body.
func (v *visitor) appendFraming(out []byte) []byte {
	req := &v.ex.req
	if req.Trailers {
		out = append(out, "TE: trailers\r\n"...)
	}
	if req.Upgrade != nil {
		out = append(out, "Connection: Upgrade\r\nUpgrade: "...)
		out = append(out, req.Upgrade...)
		out = append(out, "\r\n"...)
	}
	switch req.Framing {
	case http1.Length:
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, req.Length, 10)
		out = append(out, "\r\n"...)
	case http1.Chunked:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(out, "\r\n"...)
}

// takeBody moves what has arrived of the body behind the head in ex.out.
func (v *visitor) takeBody() error {
	ex := v.ex
	switch ex.req.Framing {
	case http1.Length:
		n := int(min(int64(len(ex.unread())), ex.req.Length))
		ex.out = append(ex.out, ex.unread()[:n]...)
		ex.used += n
		ex.received = int64(n)
		ex.bodyLeft = ex.req.Length - int64(n)
	case http1.Chunked:
		ex.bodyLeft = -1
		for !ex.chunks.Done() && len(ex.unread()) > 0 {
			data, rest, err := ex.chunks.Next(ex.unread())
			if err != nil {
				return &badBody{err}
			}
			ex.used += len(ex.unread()) - len(rest)
			ex.out = appendChunk(ex.out, data)
			ex.received += int64(len(data))
			if limit := ex.pass.MaxBody; limit > 0 && ex.received > limit {
				return policy.TooLarge(limit)
			}
		}
		if ex.chunks.Done() {
			var err error
			if ex.out, err = appendLastChunk(ex.out, &ex.chunks, &ex.fields); err != nil {
				return &badBody{err}
			}
			ex.bodyLeft = 0
		}
	}
	if ex.req.Framing != http1.NoBody && ex.bodyLeft == 0 {
		v.startWatch()
	}
	return nil
}

// skipBody passes over a body that is in the buffer, which need not be read to
// its end then. It reports whether that is so.
func (ex *exchange) skipBody() bool {
	switch ex.req.Framing {
	case http1.NoBody:
		return true
	case http1.Length:
		if ex.received == 0 && int64(len(ex.unread())) >= ex.req.Length {
			ex.used += int(ex.req.Length)
			ex.received = ex.req.Length
		}
		return ex.received == ex.req.Length
	}
	return ex.chunks.Done()
}

func appendChunk(out, data []byte) []byte {
	if len(data) == 0 {
		return out // it would end the body
	}
	out = http1.AppendChunkHeader(out, len(data))
	out = append(out, data...)
	return append(out, '\r', '\n')
}

// appendLastChunk appends the end of a chunked body, with those of its trailer
// fields that may be passed on. scratch is used for the fields.
func appendLastChunk(out []byte, c *http1.ChunkReader, scratch *[]http1.Field) ([]byte, error) {
	out = append(out, "0\r\n"...)
	fields, err := c.Trailer((*scratch)[:0])
	if err != nil {
		return out, err
	}
	for _, f := range fields {
		out = http1.AppendField(out, f.Name, f.Value)
	}
	clear(fields)
	*scratch = fields[:0]
	return append(out, "\r\n"...), nil
}

// announcesOnlyAllowed reports whether a Trailer field names none of the fields
// that must not be in a trailer; some servers refuse a message that does.
func announcesOnlyAllowed(list []byte) bool {
	for list != nil {
		var name []byte
		if name, list = http1.NextToken(list); !http1.AllowedInTrailer(name) {
			return false
		}
	}
	return true
}
