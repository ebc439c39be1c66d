package ingress

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A fakeTracer follows requests whose path begins with /traced.
type fakeTracer struct {
	continues bool

	mu    sync.Mutex
	asked []string // traceparent, and whether trusted
	ended chan Finished
}

const newParent = "00-11111111111111111111111111111111-2222222222222222-01"

func (f *fakeTracer) Trace(traceparent string, trusted bool) Span {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, traceparent+map[bool]string{true: " trusted"}[trusted])
	if traceparent == "no" {
		return nil
	}
	return fakeSpan{f}
}

type fakeSpan struct{ f *fakeTracer }

func (s fakeSpan) Traceparent() (string, bool) { return newParent, s.f.continues }
func (s fakeSpan) End(f Finished)              { s.f.ended <- f }

// What an upstream is told of traces, through both relays.
func TestTraceContext(t *testing.T) {
	t.Parallel()
	const state = "vendor=value"
	for _, tt := range []struct {
		name      string
		sent      []string // fields
		continues bool
		asked     string
		want      []string // traceparent, tracestate
	}{
		{"none", nil, false, "", []string{newParent}},
		{"one of the visitor", []string{"Traceparent: 00-aa-bb-01", "Tracestate: " + state}, true, "00-aa-bb-01", []string{newParent, state}},
		{"a new one", []string{"traceparent: 00-aa-bb-01", "tracestate: " + state}, false, "00-aa-bb-01", []string{newParent}},
		{"two", []string{"traceparent: 1", "traceparent: 2", "tracestate: " + state}, false, "", []string{newParent}},
		{"not followed", []string{"traceparent: no", "tracestate: " + state}, false, "no", []string{"no", state}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := make(chan http.Header, 1)
			tracer := &fakeTracer{continues: tt.continues, ended: make(chan Finished, 1)}
			logged := make(chan Finished, 1)
			m := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got <- r.Header
				io.WriteString(w, "hello")
			}))
			h, addr := startHTTP(t, HTTPOptions{
				Router: always(m), Tracer: tracer, OnRequest: func(f Finished) { logged <- f },
				TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
			})
			check := func(how, asked string) {
				t.Helper()
				header := wait(t, "the request", got)
				if v := append(header.Values("Traceparent"), header.Values("Tracestate")...); !slices.Equal(v, tt.want) {
					t.Errorf("%s: the upstream got %q, want %q", how, v, tt.want)
				}
				tracer.mu.Lock()
				if last := tracer.asked[len(tracer.asked)-1]; last != asked {
					t.Errorf("%s: the tracer was asked about %q, want %q", how, last, asked)
				}
				tracer.mu.Unlock()
				f := wait(t, "OnRequest", logged)
				if tt.asked != "no" {
					if e := wait(t, "End", tracer.ended); e.Path != "/p" || e.Status != 200 || e.Sent != 5 {
						t.Errorf("%s: ended with %+v", how, e)
					}
					if f.Trace != strings.Repeat("1", 32) {
						t.Errorf("%s: got trace %q", how, f.Trace)
					}
				} else if f.Trace != "" {
					t.Errorf("%s: got trace %q, want none", how, f.Trace)
				}
				if f.Tries != 1 || f.Proto != "HTTP/1.1" || f.UserAgent != "test" || f.Referer != "http://r/?q" {
					t.Errorf("%s: got %+v", how, f)
				}
			}

			c := dial(t, addr)
			c.send("GET /p?q HTTP/1.1\r\nHost: web\r\nUser-Agent: test\r\nReferer: http://r/?q\r\n" + strings.Join(append(tt.sent, ""), "\r\n") + "\r\n")
			c.response("GET")
			check("own relay", tt.asked+" trusted")

			r := httptest.NewRequest("GET", "/p?q", nil)
			r.Host = "web"
			r.Header.Set("User-Agent", "test")
			r.Header.Set("Referer", "http://r/?q")
			for _, field := range tt.sent {
				name, value, _ := strings.Cut(field, ": ")
				r.Header.Add(name, value)
			}
			h.ServeHTTP(httptest.NewRecorder(), r)
			check("net/http", tt.asked)
		})
	}
}

// A request that fails before it is sent anywhere is followed too.
func TestTraceOfFailure(t *testing.T) {
	t.Parallel()
	tracer := &fakeTracer{ended: make(chan Finished, 1)}
	_, addr := startHTTP(t, HTTPOptions{Router: always(nil), Tracer: tracer})
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: a..b\r\n\r\n")
	c.response("GET")
	if f := wait(t, "End", tracer.ended); f.Status != 404 || f.Code != "unknown-name" {
		t.Errorf("got %+v", f)
	}
}

func TestShownPaths(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"": "", "*": "*", "/": "/", "/a/b?c=d?e": "/a/b", "?q": "", "/_token/secret/a?b": "/_token/[redacted]/a",
		"/_token/secret": "/_token/[redacted]", "/_token/": "/_token/[redacted]", "/_token//a": "/_token/[redacted]/a", "/a/_token/b": "/a/_token/b",
	} {
		if got := pathOf(target); got != want {
			t.Errorf("%q: got %q, want %q", target, got, want)
		}
	}
}
