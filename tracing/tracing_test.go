package tracing_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	otlp "go.opentelemetry.io/proto/otlp/trace/v1"

	"adit/ingress"
	"adit/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// A fakeCollector takes spans as a collector does.
type fakeCollector struct {
	*httptest.Server
	status int // what it answers; 0 is 200
	busy   int // so many answers are 503 before

	mu    sync.Mutex
	spans []*otlp.Span
	attrs map[string]string // of the resource
}

func startCollector(t *testing.T) *fakeCollector {
	c := &fakeCollector{attrs: make(map[string]string)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("got %s %s of %s", r.Method, r.URL, r.Header.Get("Content-Type"))
		}
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		b, err := io.ReadAll(body)
		var req otlp.TracesData // the same on the wire as ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(b, &req)
		}
		if err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer collector's" {
			t.Error("the header is missing")
		}
		if c.busy > 0 {
			c.busy--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if c.status != 0 {
			w.WriteHeader(c.status)
			return
		}
		for _, rs := range req.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				c.attrs[a.Key] = a.Value.GetStringValue()
			}
			for _, ss := range rs.ScopeSpans {
				c.spans = append(c.spans, ss.Spans...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *fakeCollector) got() []*otlp.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*otlp.Span(nil), c.spans...)
}

func newTracer(t *testing.T, c *fakeCollector, ratio float64, onError func(error)) *tracing.Tracer {
	t.Helper()
	tr, err := tracing.New(t.Context(), tracing.Options{
		Endpoint: c.URL + "/",
		Header:   http.Header{"Authorization": {"Bearer collector's"}},
		Ratio:    ratio,
		Version:  "1.2.3",
		OnError:  onError,
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// closeTracer sends what there is.
func closeTracer(t *testing.T, tr *tracing.Tracer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := tr.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}

const (
	visitorTrace = "0af7651916cd43dd8448eb211c80319c"
	visitorSpan  = "b7ad6b7169203331"
	sampled      = "00-" + visitorTrace + "-" + visitorSpan + "-01"
	notSampled   = "00-" + visitorTrace + "-" + visitorSpan + "-00"
)

func TestSpans(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	tr := newTracer(t, c, 1, nil)
	root := tr.Trace("", false)
	value, continues := root.Traceparent()
	if len(value) != 55 || !strings.HasPrefix(value, "00-") || !strings.HasSuffix(value, "-01") || continues {
		t.Errorf("got traceparent %q, continues %v", value, continues)
	}
	root.End(ingress.Finished{
		Remote: netip.MustParseAddrPort("203.0.113.7:40000"), Method: "GET", Host: "web.example.com", Path: "/p", Proto: "HTTP/2.0",
		Secure: true, UserAgent: strings.Repeat("x", 5000), ID: "web", Status: 502, Code: "agent-lost", Sent: 7, Tries: 2,
	})
	child := tr.Trace(sampled, false)
	if value, continues := child.Traceparent(); !strings.HasPrefix(value, "00-"+visitorTrace) || strings.Contains(value, visitorSpan) || !continues {
		t.Errorf("got traceparent %q, continues %v", value, continues)
	}
	child.End(ingress.Finished{Method: "BREW", Status: 200, Proto: "HTTP/1.1"})
	closeTracer(t, tr)

	spans := c.got()
	if len(spans) != 2 {
		t.Fatalf("got %d spans, want 2", len(spans))
	}
	attrs := make(map[string]string)
	for _, a := range spans[0].Attributes {
		attrs[a.Key] = a.Value.GetStringValue()
		if a.Value.GetStringValue() == "" {
			attrs[a.Key] = fmt.Sprint(a.Value.GetIntValue())
		}
	}
	for key, want := range map[string]string{
		"http.request.method": "GET", "url.scheme": "https", "url.path": "/p", "server.address": "web.example.com",
		"client.address": "203.0.113.7", "http.response.status_code": "502", "network.protocol.version": "2",
		"adit.tunnel": "web", "error.type": "agent-lost", "adit.tries": "2", "http.response.body.size": "7",
	} {
		if attrs[key] != want {
			t.Errorf("%s: got %q, want %q", key, attrs[key], want)
		}
	}
	if n := len(attrs["user_agent.original"]); n != 1024 {
		t.Errorf("the user agent has %d bytes, want it cut", n)
	}
	if s := spans[0]; s.Name != "GET" || s.Kind != otlp.Span_SPAN_KIND_SERVER || s.Status.GetCode() != otlp.Status_STATUS_CODE_ERROR ||
		fmt.Sprintf("%x", s.TraceId) != value[3:35] || len(s.ParentSpanId) != 0 || s.EndTimeUnixNano < s.StartTimeUnixNano {
		t.Errorf("got span %v", s)
	}
	if s := spans[1]; s.Name != "HTTP" || fmt.Sprintf("%x", s.TraceId) != visitorTrace || fmt.Sprintf("%x", s.ParentSpanId) != visitorSpan {
		t.Errorf("got span %v, want a child of the visitor's", s)
	}
	if c.attrs["service.name"] != "adit" || c.attrs["service.version"] != "1.2.3" {
		t.Errorf("got resource %v", c.attrs)
	}
	if s := tr.Stats(); s.Recorded != 2 || s.Sent != 2 || s.Failed != 0 {
		t.Errorf("got %+v", s)
	}
}

// Who decides whether a request is recorded.
func TestSampling(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	for _, tt := range []struct {
		name        string
		ratio       float64
		traceparent string
		trusted     bool
		want        bool
	}{
		{"all", 1, "", false, true},
		{"none", 0, "", false, false},
		{"a stranger wants it", 0, sampled, false, false},
		{"a stranger does not", 1, notSampled, false, true},
		{"a trusted proxy wants it", 0, sampled, true, true},
		{"a trusted proxy does not", 1, notSampled, true, false},
		{"a trusted proxy says nothing", 1, "", true, true},
		{"malformed", 1, "00-zz-zz-01", true, true},
		{"malformed, and none are recorded", 0, "00-zz-zz-01", true, false},
		{"all zero", 0, "00-00000000000000000000000000000000-0000000000000000-01", true, false},
		{"long", 1, strings.Repeat("0", 10_000), true, true},
	} {
		tr := newTracer(t, c, tt.ratio, nil)
		s := tr.Trace(tt.traceparent, tt.trusted)
		if got := s != nil; got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
		if s != nil {
			s.End(ingress.Finished{Method: "GET", Status: 200})
		}
		closeTracer(t, tr)
	}
	tr := newTracer(t, c, 0.2, nil)
	defer closeTracer(t, tr)
	n := 0
	for range 5000 {
		if s := tr.Trace(sampled, false); s != nil {
			n++
		}
	}
	if n < 800 || n > 1200 {
		t.Errorf("%d of 5000 were recorded, want one in five", n)
	}
}

// A collector that does not answer costs neither time nor memory without
// bound, and is complained about once.
func TestCollectorThatFails(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	c.status = http.StatusBadRequest // which is not tried again
	var mu sync.Mutex
	var told []error
	tr := newTracer(t, c, 1, func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, err)
	})
	began := time.Now()
	for range 20_000 {
		tr.Trace("", false).End(ingress.Finished{Method: "GET", Status: 200})
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("20,000 requests took %v", took)
	}
	closeTracer(t, tr)
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 1 {
		t.Errorf("was told %d times: %v", len(told), told)
	}
	if s := tr.Stats(); s.Recorded != 20_000 || s.Sent != 0 || s.Failed == 0 {
		t.Errorf("got %+v", s)
	}
}

// A collector that is busy is asked again, and one that sends us elsewhere gets
// nothing there.
func TestBusyCollector(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	c.busy = 1
	tr := newTracer(t, c, 1, func(err error) { t.Errorf("was told %v", err) })
	tr.Trace("", false).End(ingress.Finished{Method: "GET", Status: 200, Path: "/\xff", Host: "\x00"})
	closeTracer(t, tr)
	if spans := c.got(); len(spans) != 1 {
		t.Errorf("got %d spans, want 1", len(spans))
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the header went elsewhere") }))
	defer elsewhere.Close()
	s := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer s.Close()
	told := make(chan error, 1)
	tr, err := tracing.New(t.Context(), tracing.Options{Endpoint: s.URL, Ratio: 1, Header: http.Header{"X-Key": {"hush"}}, OnError: func(err error) { told <- err }})
	if err != nil {
		t.Fatal(err)
	}
	tr.Trace("", false).End(ingress.Finished{Method: "GET", Status: 200})
	closeTracer(t, tr)
	if err := <-told; !strings.Contains(err.Error(), "307") || strings.Contains(err.Error(), "hush") {
		t.Errorf("was told %v, want the status", err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []tracing.Options{
		{}, {Endpoint: "127.0.0.1:4318"}, {Endpoint: "ftp://h"}, {Endpoint: "http://user:password@h"}, {Endpoint: "http://h?q"},
		{Endpoint: "http://h", Ratio: -0.1}, {Endpoint: "http://h", Ratio: 1.1},
	} {
		if tr, err := tracing.New(t.Context(), o); err == nil {
			tr.Close(t.Context())
			t.Errorf("%+v: got no error", o)
		} else if strings.Contains(err.Error(), "password") {
			t.Errorf("%v shows the password", err)
		}
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add(sampled, true)
	f.Add("", false)
	f.Add("ff-"+visitorTrace+"-"+visitorSpan+"-01-more", true)
	tr, err := tracing.New(context.Background(), tracing.Options{Endpoint: "http://127.0.0.1:1", Ratio: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		tr.Close(ctx) // no span has ended
	})
	f.Fuzz(func(t *testing.T, traceparent string, trusted bool) {
		s := tr.Trace(traceparent, trusted)
		if s == nil {
			return
		}
		value, continues := s.Traceparent()
		if len(value) != 55 || strings.Trim(value, "0123456789abcdef-") != "" {
			t.Errorf("%q became %q", traceparent, value)
		}
		if continues && !strings.Contains(traceparent, value[3:35]) {
			t.Errorf("%q does not continue %q", value, traceparent)
		}
	})
}
