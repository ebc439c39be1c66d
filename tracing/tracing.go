// Package tracing follows some of the visitors' requests as OpenTelemetry
// traces, and sends these to a collector with OTLP over HTTP.
//
//	t, err := tracing.New(ctx, tracing.Options{Endpoint: "http://127.0.0.1:4318", Ratio: 0.1})
//	...
//	defer t.Close(ctx)
//	http := ingress.NewHTTP(ingress.HTTPOptions{Tracer: t, ...})
//
// The upstream is told of a trace that is recorded, in the field traceparent
// (W3C Trace Context), so that its own spans join it. Of others nothing is
// touched. Which requests are recorded is for us and the trusted proxies to
// say: others could have us record everything.
package tracing

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"adit/ingress"
)

const (
	scope         = "adit"
	tracesPath    = "/v1/traces"
	maxQueue      = 2048 // spans
	maxBatch      = 512  // spans
	batchEvery    = 2 * time.Second
	exportTimeout = 10 * time.Second
	maxAttribute  = 1024 // bytes
	complainEvery = time.Minute
)

// Options configures a Tracer. Endpoint is required.
type Options struct {
	// Endpoint is the collector's base URL, such as "http://127.0.0.1:4318".
	// /v1/traces is added to its path.
	Endpoint string

	// Header is sent to the collector; it may hold a credential. TLS
	// configures https; nil verifies the collector against the system's
	// certificates.
	Header http.Header
	TLS    *tls.Config

	// Ratio is the share of requests that are recorded, from 0 to 1, but for
	// those about which a trusted proxy has decided.
	Ratio float64

	// Version is that of the program.
	Version string

	// OnError is told when spans could not be sent, once in a minute at most.
	// It may be nil.
	OnError func(error)
}

// A Tracer records requests. It never blocks them: spans that the collector
// does not take in time are dropped. Its methods are safe for concurrent use.
type Tracer struct {
	opts     Options
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	exporter *exporter
	recorded atomic.Uint64
}

var _ ingress.Tracer = (*Tracer)(nil)

// CheckEndpoint reports what is wrong with an endpoint.
func CheckEndpoint(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want http:// or https:// with a host, such as http://127.0.0.1:4318")
	}
	return nil
}

// New returns a Tracer. ctx bounds nothing but its start. Close it.
func New(ctx context.Context, opts Options) (*Tracer, error) {
	if err := CheckEndpoint(opts.Endpoint); err != nil {
		return nil, fmt.Errorf("tracing: endpoint: %w", err)
	}
	if !(opts.Ratio >= 0 && opts.Ratio <= 1) {
		return nil, fmt.Errorf("tracing: ratio %v: 0 to 1 are allowed", opts.Ratio)
	}
	if opts.OnError == nil {
		opts.OnError = func(error) {}
	}
	res, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "adit"), attribute.String("service.version", opts.Version)),
		resource.WithHost(),
		resource.WithFromEnv()) // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	url := strings.TrimSuffix(opts.Endpoint, "/") + tracesPath
	t := &Tracer{opts: opts, exporter: newExporter(url, opts.Header, opts.TLS, opts.OnError)}
	limits := sdktrace.NewSpanLimits()
	limits.AttributeValueLengthLimit = maxAttribute
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithResource(res),
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // Trace has decided
		sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithBatcher(t.exporter,
			sdktrace.WithMaxQueueSize(maxQueue),
			sdktrace.WithMaxExportBatchSize(maxBatch),
			sdktrace.WithBatchTimeout(batchEvery),
			sdktrace.WithExportTimeout(exportTimeout)))
	t.tracer = t.provider.Tracer(scope, trace.WithInstrumentationVersion(opts.Version))
	return t, nil
}

// Close sends what is left, until ctx ends.
func (t *Tracer) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// Trace implements ingress.Tracer.
func (t *Tracer) Trace(traceparent string, trusted bool) ingress.Span {
	chosen := t.opts.Ratio > 0 && rand.Float64() < t.opts.Ratio
	if !chosen && (!trusted || traceparent == "") {
		return nil
	}
	ctx := context.Background()
	parent := trace.SpanContext{}
	if traceparent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
		parent = trace.SpanContextFromContext(ctx)
	}
	if trusted && parent.IsValid() {
		chosen = parent.IsSampled()
	}
	if !chosen {
		return nil
	}
	t.recorded.Add(1)
	_, s := t.tracer.Start(ctx, "HTTP", trace.WithSpanKind(trace.SpanKindServer))
	sc := s.SpanContext()
	return &span{
		s:         s,
		value:     "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-01",
		continues: parent.IsValid(),
	}
}

// A span is a request that is recorded.
type span struct {
	s         trace.Span
	value     string
	continues bool
}

// Traceparent implements ingress.Span.
func (s *span) Traceparent() (value string, continues bool) { return s.value, s.continues }

// End implements ingress.Span. The names are those of OpenTelemetry's semantic
// conventions for HTTP; what is adit's own begins with "adit".
func (s *span) End(f ingress.Finished) {
	method := methodOf(f.Method)
	if method != "_OTHER" {
		s.s.SetName(method)
	}
	scheme := "http"
	if f.Secure {
		scheme = "https"
	}
	attrs := []attribute.KeyValue{
		attribute.String("http.request.method", method),
		attribute.String("url.scheme", scheme),
		attribute.String("url.path", f.Path),
		attribute.String("server.address", f.Host),
		attribute.Int("http.response.status_code", f.Status),
		attribute.Int64("http.request.body.size", f.Received),
		attribute.Int64("http.response.body.size", f.Sent),
		attribute.Float64("adit.waited", f.Waited.Seconds()),
		attribute.Int("adit.tries", f.Tries),
	}
	if _, version, ok := strings.Cut(f.Proto, "/"); ok {
		if version == "2.0" {
			version = "2"
		}
		attrs = append(attrs, attribute.String("network.protocol.version", version))
	}
	for _, a := range []struct{ key, value string }{
		{"user_agent.original", f.UserAgent}, {"adit.tunnel", string(f.ID)}, {"adit.service", f.Service}, {"error.type", f.Code},
	} {
		if a.value != "" {
			attrs = append(attrs, attribute.String(a.key, a.value))
		}
	}
	if f.Remote.IsValid() {
		attrs = append(attrs, attribute.String("client.address", f.Remote.Addr().String()), attribute.Int("client.port", int(f.Remote.Port())))
	}
	if f.Status >= 500 {
		s.s.SetStatus(codes.Error, f.Code)
	}
	s.s.SetAttributes(attrs...)
	s.s.End()
}

// methodOf returns a method that is known, or "_OTHER".
func methodOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodOptions, http.MethodTrace, "QUERY":
		return method
	}
	return "_OTHER"
}

// Stats says what became of spans so far.
type Stats struct {
	Recorded uint64
	Sent     uint64
	Failed   uint64 // could not be sent
	MaxQueue int    // spans
}

// Stats returns what became of spans so far. Those that were neither sent nor
// failed wait, or were dropped because too many waited.
func (t *Tracer) Stats() Stats {
	return Stats{t.recorded.Load(), t.exporter.sent.Load(), t.exporter.failed.Load(), maxQueue}
}

// valid returns s with what is no UTF-8 replaced.
func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
