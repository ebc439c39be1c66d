package headerrule

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestApply(t *testing.T) {
	t.Parallel()
	r, err := New([]string{"x-a: new", "X-Empty:", "Content-Type:text/plain ", "Set-Cookie: b=2", "X-Removed: again"}, []string{"server", "X-Removed", "X-Forwarded-For"})
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{
		"X-A": {"old", "older"}, "Server": {"x"}, "Set-Cookie": {"a=1"}, "X-Kept": {"k"},
		"X-Removed": {"r"}, "X-Forwarded-For": {"192.0.2.1"},
	}
	r.Apply(h)
	want := http.Header{
		"X-A": {"new"}, "X-Empty": {""}, "Content-Type": {"text/plain"}, "Set-Cookie": {"a=1", "b=2"},
		"X-Kept": {"k"}, "X-Removed": {"again"},
	}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("got %q, want %q", h, want)
	}
	if (Rules{}).IsZero() != true || r.IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ set, want string }{
		{"X-A", "':'"},
		{"", "':'"},
		{": v", "name"},
		{"X A: v", "name"},
		{"X-A : v", "name"},
		{" X-A: v", "name"},
		{"X-A\r\nX-B: v", "name"},
		{"X-A: v\r\nX-B: w", "control"},
		{"X-A: v\nX-B: w", "control"},
		{"X-A: a\x00b", "control"},
		{"X-A: " + strings.Repeat("v", 9000), "at most"},
		{"Host: other", "--host-header"},
		{"Content-Length: 5", "one connection"},
		{"transfer-encoding: chunked", "one connection"},
		{"Connection: close", "one connection"},
		{"Keep-Alive: 5", "one connection"},
		{"Proxy-Authorization: x", "one connection"},
		{"TE: trailers", "one connection"},
		{"Trailer: x", "one connection"},
		{"Upgrade: x", "one connection"},
		{"Expect: 100-continue", "one connection"},
		{"Adit-Error: x", "adit's own"},
		{"X-Forwarded-For: 192.0.2.1", "who the visitor is"},
		{"x-forwarded-proto: https", "who the visitor is"},
		{"X-Forwarded-User: root", "who the visitor is"},
		{"X-Real-IP: 192.0.2.1", "who the visitor is"},
		{"Forwarded: for=x", "who the visitor is"},
		{"X_Forwarded_For: x", "cannot be set"},
		{"Content_Length: 5", "cannot be set"},
	} {
		if _, err := New([]string{tt.set}, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("set %.40q: %v, want an error with %q", tt.set, err, tt.want)
		}
	}
	for _, name := range []string{"", "X A", "X-A:", "Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "TE", "Expect", "Adit-Error"} {
		if _, err := New(nil, []string{name}); err == nil {
			t.Errorf("remove %q: want an error", name)
		}
	}
	if _, err := New(make([]string, 65), nil); err == nil || !strings.Contains(err.Error(), "at most 64") {
		t.Errorf("65 rules: %v", err)
	}
	if _, err := New([]string{"Authorization: Bearer hunter2\x01"}, nil); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows the value: %v", err)
	}
}

func FuzzNew(f *testing.F) {
	f.Add("X-A: b", "Server")
	f.Add("X-Forwarded-For: x", "Host")
	f.Fuzz(func(t *testing.T, set, remove string) {
		r, err := New([]string{set}, []string{remove})
		if err != nil {
			return
		}
		h := http.Header{}
		r.Apply(h)
		var b strings.Builder
		if err := h.Write(&b); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(b.String(), "\n"); n != 1 {
			t.Fatalf("%q became %d lines: %q", set, n, b.String())
		}
	})
}
