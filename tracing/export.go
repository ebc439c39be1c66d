package tracing

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	retryMin  = 500 * time.Millisecond
	maxAnswer = 64 << 10 // bytes that are read
)

// An exporter sends spans to a collector: OTLP 1.x over HTTP, in protobuf. The
// module that OpenTelemetry has for that brings all of gRPC along.
type exporter struct {
	url     string
	header  http.Header
	client  *http.Client
	onError func(error)

	sent, failed atomic.Uint64
	told         atomic.Int64 // when onError was told last, in Unix time
}

var _ sdktrace.SpanExporter = (*exporter)(nil)

func newExporter(url string, header http.Header, trust *tls.Config, onError func(error)) *exporter {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = trust
	transport.MaxIdleConnsPerHost = 1
	return &exporter{
		url:    url,
		header: header,
		client: &http.Client{
			Transport: transport,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse // it would take the header along
			},
		},
		onError: onError,
	}
}

// ExportSpans implements sdktrace.SpanExporter. Its errors are told to onError,
// since the SDK would write them to the standard logger.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.send(ctx, zipped(appendRequest(nil, spans)))
	if err == nil {
		e.sent.Add(uint64(len(spans)))
		return nil
	}
	e.failed.Add(uint64(len(spans)))
	now, last := time.Now().Unix(), e.told.Load()
	if now-last >= int64(complainEvery/time.Second) && e.told.CompareAndSwap(last, now) {
		e.onError(err)
	}
	return nil
}

// Shutdown implements sdktrace.SpanExporter.
func (e *exporter) Shutdown(context.Context) error {
	e.client.CloseIdleConnections()
	return nil
}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b) // to memory: does not fail
	z.Close()
	return out.Bytes()
}

// send sends a request, again if the collector is too busy, until ctx ends.
func (e *exporter) send(ctx context.Context, body []byte) error {
	for wait := retryMin; ; wait *= 2 {
		again, after, err := e.post(ctx, body)
		if err == nil || !again {
			return err
		}
		t := time.NewTimer(max(wait, after))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// post makes one attempt. The error does not say what is in the header.
func (e *exporter) post(ctx context.Context, body []byte) (again bool, after time.Duration, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return false, 0, err
	}
	r.Header = e.header.Clone()
	r.Header.Set("Content-Type", "application/x-protobuf")
	r.Header.Set("Content-Encoding", "gzip")
	r.Header.Set("User-Agent", "adit")
	resp, err := e.client.Do(r)
	if err != nil {
		return true, 0, err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 == 2 {
		return false, 0, nil
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		again = true // OTLP, section "Failures"
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		after = time.Duration(min(s, int(exportTimeout/time.Second))) * time.Second
	}
	return again, after, fmt.Errorf("the collector at %s answers %s", e.url, resp.Status)
}

// The numbers of fields are those of opentelemetry-proto 1.x: the messages
// ExportTraceServiceRequest, ResourceSpans, ScopeSpans, Span, KeyValue and what
// they are made of.

// appendRequest appends an ExportTraceServiceRequest. All spans are of one
// provider and one scope.
func appendRequest(b []byte, spans []sdktrace.ReadOnlySpan) []byte {
	if len(spans) == 0 {
		return b
	}
	scope := spans[0].InstrumentationScope()
	var s []byte
	s = appendString(s, 1, scope.Name)
	s = appendString(s, 2, scope.Version)
	var list []byte
	list = appendMessage(list, 1, s)
	for _, span := range spans {
		list = appendMessage(list, 2, appendSpan(nil, span))
	}
	var of []byte
	of = appendMessage(of, 1, appendResource(nil, spans[0].Resource()))
	of = appendMessage(of, 2, list)
	return appendMessage(b, 1, of)
}

func appendResource(b []byte, r *resource.Resource) []byte {
	for _, kv := range r.Attributes() {
		b = appendMessage(b, 1, appendPair(nil, kv))
	}
	return b
}

func appendSpan(b []byte, s sdktrace.ReadOnlySpan) []byte {
	sc, parent := s.SpanContext(), s.Parent()
	trace, id := sc.TraceID(), sc.SpanID()
	b = appendBytes(b, 1, trace[:])
	b = appendBytes(b, 2, id[:])
	if parent.SpanID().IsValid() {
		id := parent.SpanID()
		b = appendBytes(b, 4, id[:])
	}
	b = appendString(b, 5, s.Name())
	b = appendVarint(b, 6, uint64(s.SpanKind())) // the same numbers
	b = appendFixed(b, 7, uint64(s.StartTime().UnixNano()))
	b = appendFixed(b, 8, uint64(s.EndTime().UnixNano()))
	for _, kv := range s.Attributes() {
		b = appendMessage(b, 9, appendPair(nil, kv))
	}
	if n := s.DroppedAttributes(); n > 0 {
		b = appendVarint(b, 10, uint64(n))
	}
	if st := s.Status(); st.Code != 0 {
		const failed = 2 // STATUS_CODE_ERROR, the only one that we set
		b = appendMessage(b, 15, appendVarint(appendString(nil, 2, st.Description), 3, failed))
	}
	return b
}

// appendPair appends a KeyValue.
func appendPair(b []byte, kv attribute.KeyValue) []byte {
	b = appendString(b, 1, string(kv.Key))
	var v []byte
	switch kv.Value.Type() {
	case attribute.BOOL:
		v = appendVarint(v, 2, protowire.EncodeBool(kv.Value.AsBool()))
	case attribute.INT64:
		v = appendVarint(v, 3, uint64(kv.Value.AsInt64()))
	case attribute.FLOAT64:
		v = appendFixed(v, 4, math.Float64bits(kv.Value.AsFloat64()))
	default: // nobody sets lists
		v = appendString(v, 1, kv.Value.String())
	}
	return appendMessage(b, 2, v)
}

func appendMessage(b []byte, field protowire.Number, m []byte) []byte {
	return appendBytes(b, field, m)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// appendString appends text, which has to be UTF-8 there.
func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), valid(s))
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendFixed(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), v)
}
