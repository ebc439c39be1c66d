package webhook

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// start serves a verifier for GitHub in front of an upstream that echoes, and
// returns its URL and the number of requests that the upstream saw.
func start(t *testing.T, opts Options) (url string, saw *atomic.Int32) {
	t.Helper()
	opts.Scheme, opts.Secrets = "github", []string{"a secret for tests"}
	v, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	saw = new(atomic.Int32)
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		saw.Add(1)
		b, err := io.ReadAll(r.Body)
		if err != nil || r.ContentLength != int64(len(b)) || len(r.TransferEncoding) > 0 {
			t.Errorf("upstream: %v, length %d of %d, coding %q", err, r.ContentLength, len(b), r.TransferEncoding)
		}
		w.Write(b)
	})
	s := httptest.NewServer(v.Handler(next, func(*http.Request, error) {}))
	t.Cleanup(s.Close)
	t.Cleanup(func() {
		if v.memory.taken != 0 {
			t.Errorf("%d bytes were not given back", v.memory.taken)
		}
	})
	return s.URL, saw
}

func post(t *testing.T, url string, body io.Reader, signed []byte) (int, string, string) {
	t.Helper()
	req, err := http.NewRequest("POST", url, body)
	if err != nil {
		t.Fatal(err)
	}
	if signed != nil {
		req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sign(sha256.New, "a secret for tests", string(signed))))
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Adit-Error"), string(b)
}

func TestHandler(t *testing.T) {
	t.Parallel()
	url, saw := start(t, Options{MaxBody: 300_000})
	big := bytes.Repeat([]byte("0123456789"), 30_000)
	over := append(bytes.Clone(big), 'x')
	for _, tt := range []struct {
		name   string
		body   []byte
		signed []byte
		chunks bool
		status int
		code   string
	}{
		{"good", []byte(body), []byte(body), false, 200, ""},
		{"good in chunks", []byte(body), []byte(body), true, 200, ""},
		{"empty", nil, []byte{}, false, 200, ""},
		{"large", big, big, false, 200, ""},
		{"large in chunks", big, big, true, 200, ""},
		{"too large", over, over, false, 413, "body-too-large"},
		{"too large in chunks", over, over, true, 413, "body-too-large"},
		{"not signed", []byte(body), nil, false, 401, "signature-missing"},
		{"not signed and large", over, nil, true, 401, "signature-missing"},
		{"not signed and empty", nil, nil, false, 401, "signature-missing"},
		{"signed something else", []byte(body), []byte("other"), false, 403, "signature-invalid"},
	} {
		before := saw.Load()
		var in io.Reader = bytes.NewReader(tt.body)
		if tt.chunks {
			in = io.MultiReader(in)
		}
		status, code, got := post(t, url, in, tt.signed)
		if status != tt.status || code != tt.code {
			t.Errorf("%s: got %d %q %.100s, want %d %q", tt.name, status, code, got, tt.status, tt.code)
		}
		if status == 200 && got != string(tt.body) {
			t.Errorf("%s: the upstream got %d bytes, want the %d that were sent", tt.name, len(got), len(tt.body))
		}
		if n := saw.Load() - before; (n == 1) != (tt.status == 200) {
			t.Errorf("%s: the upstream saw %d requests", tt.name, n)
		}
	}
}

// Bodies that are being checked take a bounded amount of memory.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	v := verifier(t, "github", "a secret for tests")
	if !v.memory.take(maxMemory - 100) {
		t.Fatal("memory is not there")
	}
	r := httptest.NewRequest("POST", "/", strings.NewReader(body))
	r.Header = signed("github", "a secret for tests", 0)
	w := httptest.NewRecorder()
	h := v.Handler(http.NotFoundHandler(), func(*http.Request, error) {})
	if h.ServeHTTP(w, r); w.Code != 503 || w.Header().Get("Adit-Error") != "busy" || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %d %q, want 503 busy", w.Code, w.Header())
	}
	v.memory.free(maxMemory - 100)
	r = httptest.NewRequest("POST", "/", strings.NewReader(body))
	r.Header = signed("github", "a secret for tests", 0)
	w = httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != 404 {
		t.Errorf("got %d, want the upstream's 404", w.Code)
	}
}

// A sender that goes slow does not hold memory for long, and is told.
func TestCutBody(t *testing.T) {
	t.Parallel()
	v := verifier(t, "github", "a secret for tests")
	pr, pw := io.Pipe()
	go func() {
		pw.Write([]byte("half"))
		pw.CloseWithError(io.ErrUnexpectedEOF)
	}()
	r := httptest.NewRequest("POST", "/", pr)
	r.Header = signed("github", "a secret for tests", 0)
	w := httptest.NewRecorder()
	var why error
	v.Handler(http.NotFoundHandler(), func(_ *http.Request, err error) { why = err }).ServeHTTP(w, r)
	if w.Code != 400 || why != io.ErrUnexpectedEOF {
		t.Errorf("got %d, %v; want 400 and the cause", w.Code, why)
	}
	if v.memory.taken != 0 {
		t.Errorf("%d bytes were not given back", v.memory.taken)
	}
}

func BenchmarkVerify(b *testing.B) {
	v := verifier(b, "github", "a secret for tests")
	h, data, now := signed("github", "a secret for tests", 0), []byte(body), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Verify(h, data, now); err != nil {
			b.Fatal(err)
		}
	}
}
