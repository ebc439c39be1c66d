package ingress

import (
	"net/netip"
	"strings"
	"time"

	"adit/internal/http1"
	"adit/internal/relay"
	"adit/tunnel"
)

// Finished describes a request that was answered or given up, or the conn of a
// visitor whose bytes went to an upstream as they were. What the visitor sent is
// as it sent it: whoever shows it has to escape it.
type Finished struct {
	Remote    netip.AddrPort // the visitor's end of the conn; zero if it has no IP address
	Method    string         // empty if the request was malformed
	Host      string
	Path      string // without the query, and without a token of wstunnel in it
	Proto     string // such as "HTTP/1.1"
	Secure    bool   // the conn is TLS
	UserAgent string
	Referer   string
	ID        tunnel.ID // of the tunnel; empty if there was none
	Service   string
	Status    int           // what the visitor got; 499 if it left before the answer; 0 if it is not HTTP
	Code      string        // of docs/errors.md; empty if the upstream answered
	Received  int64         // bytes of the request's body
	Sent      int64         // bytes of the response's body; for upgrades, all bytes after the head
	Duration  time.Duration // from the end of the request's head
	Waited    time.Duration // of that, for an agent
	Tries     int           // deliveries that were begun
	Trace     string        // ID of its trace; empty if it is not followed
}

// Protocols of Finished that are not HTTP.
const (
	ProtoTCP = "TCP" // Host is ":" and the public port
	ProtoUDP = "UDP" // Host is ":", the public port and "/udp"
	ProtoTLS = "TLS" // an upstream ends it; Host is the name in the handshake
)

// A visit is a visitor's conn of which all bytes go to an upstream, as it is
// described at its end.
type visit struct {
	Finished
	begin time.Time
}

// done describes the visit. err is why there was no stream, if there was none.
func (v *visit) done(err error, res relay.Result) Finished {
	v.Received, v.Sent = v.Received+res.AtoB, v.Sent+res.BtoA
	v.Duration = time.Since(v.begin)
	if err != nil {
		v.Code = explain(err).code
	}
	return v.Finished
}

// A Tracer follows requests from their head to their end. Its methods are safe
// for concurrent use, and do not block.
type Tracer interface {
	// Trace is told of each request that is to be relayed, and returns nil if
	// it is not to be followed. traceparent is what the visitor sent in the
	// field of that name (W3C Trace Context, section 3.2), and empty if it sent
	// none or several; trusted says whether the visitor is one of the trusted
	// proxies.
	Trace(traceparent string, trusted bool) Span
}

// A Span is a request that is followed.
type Span interface {
	// Traceparent is what the upstream is told, in place of what the visitor
	// sent. continues says that the trace is the visitor's, and not a new one.
	Traceparent() (value string, continues bool)

	// End is called once.
	End(Finished)
}

// Names of fields of W3C Trace Context, in lower case.
const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
)

// finished describes the request.
func (v *visitor) finished() Finished {
	ex := v.ex
	f := Finished{
		Remote:   v.peer,
		Method:   methodString(ex.req.Method),
		Secure:   v.secure,
		Service:  ex.service,
		Status:   ex.status,
		Code:     ex.code,
		Received: ex.received,
		Sent:     ex.sent,
		Duration: v.h.now() - ex.start,
		Waited:   ex.waited,
		Tries:    ex.tries,
	}
	if f.Host = v.name.raw; f.Host != string(ex.req.Host) {
		f.Host = string(ex.req.Host)
	}
	f.Path = pathOf(string(ex.req.Target))
	if len(ex.req.Method) > 0 {
		f.Proto = "HTTP/1.1"
		if ex.req.Minor == 0 {
			f.Proto = "HTTP/1.0"
		}
	}
	for i := range ex.req.Fields {
		switch field := &ex.req.Fields[i]; {
		case field.Kind != http1.Other:
		case http1.EqualFold(field.Name, "user-agent"):
			f.UserAgent = string(field.Value)
		case http1.EqualFold(field.Name, "referer"):
			f.Referer = string(field.Value)
		}
	}
	f.ID = ex.id
	f.Trace = traceOf(ex.span)
	return f
}

// tokenPath begins the paths in which callers of wstunnel name an agent by its
// token, which is a secret.
const tokenPath = "/_token/"

// pathOf returns a target as it may be shown: without its query, and without a
// token in its path.
func pathOf(target string) string {
	path, _, _ := strings.Cut(target, "?")
	rest, ok := strings.CutPrefix(path, tokenPath)
	if !ok {
		return path
	}
	_, rest, more := strings.Cut(rest, "/")
	if more {
		rest = "/" + rest
	}
	return tokenPath + "[redacted]" + rest
}

// methodString saves allocating the usual methods.
func methodString(method []byte) string {
	switch string(method) {
	case "GET":
		return "GET"
	case "HEAD":
		return "HEAD"
	case "POST":
		return "POST"
	}
	return string(method)
}

// traceOf returns the ID of a request's trace.
func traceOf(s Span) string {
	if s == nil {
		return ""
	}
	if value, _ := s.Traceparent(); len(value) == 55 { // 00-trace-span-flags
		return value[3:35]
	}
	return ""
}

// follow asks the tracer about the request.
func (v *visitor) follow() {
	if v.h.opts.Tracer == nil {
		return
	}
	ex := v.ex
	value, n := "", 0
	for i := range ex.req.Fields {
		if f := &ex.req.Fields[i]; f.Kind == http1.Other && http1.EqualFold(f.Name, traceparent) {
			value = string(f.Value)
			n++
		}
	}
	if n != 1 {
		value = ""
	}
	ex.span = v.h.opts.Tracer.Trace(value, v.trusted)
}

// ofTrace reports whether a field is not for the upstream, which gets another
// one or none in its place.
func ofTrace(name []byte, continues bool) bool {
	return http1.EqualFold(name, traceparent) || !continues && http1.EqualFold(name, tracestate)
}

// report takes note of the request, if it was answered or given up.
func (v *visitor) report(last end) end {
	ex := v.ex
	if ex.status == 0 {
		return last
	}
	v.h.counters.done(ex.status, ex.code, ex.received, ex.sent, v.h.now()-ex.start)
	if v.h.opts.OnRequest != nil || ex.span != nil {
		v.h.tell(ex.span, v.finished())
	}
	return last
}

// tell tells of a request that is over.
func (h *HTTP) tell(s Span, f Finished) {
	if h.opts.OnRequest != nil {
		h.opts.OnRequest(f)
	}
	if s != nil {
		s.End(f)
	}
}
