package requests_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"adit/carrier/requests"
)

// TestCloseDelivers closes a conn right after the last Write, where what was
// written takes several round trips: all of it arrives, and the end. Where
// nothing arrives any more, it gives up soon.
func TestCloseDelivers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		dead bool
		most time.Duration // that Close takes
	}{
		{"a long way", false, 2 * time.Second},
		{"a way that is gone", true, 500 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := requests.NewServer(requests.Options{})
				o, err := requests.NewOpening(requests.Poll)
				if err != nil {
					t.Fatal(err)
				}
				answer := httptest.NewRecorder()
				r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(o.Body()))
				r.Header.Set(requests.Header, string(requests.Poll))
				far, _, err := s.Open(answer, r)
				if err != nil {
					t.Fatal(err)
				}
				defer far.Close()
				near, err := o.Conn(t.Context(), answer.Body.Bytes(), requests.ConnOptions{
					URL: "http://example.com/",
					RoundTrip: func(r *http.Request) (*http.Response, error) {
						const rtt = 350 * time.Millisecond
						if err := travel(r.Context(), rtt/2); err != nil {
							return nil, err
						}
						if tt.dead {
							<-r.Context().Done()
							return nil, r.Context().Err()
						}
						w := httptest.NewRecorder()
						s.ServeHTTP(w, r)
						return w.Result(), travel(r.Context(), rtt/2)
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				want := bytes.Repeat([]byte("0123456789"), 25_000)
				for b := range slices.Chunk(want, 10_000) {
					if _, err := near.Write(b); err != nil {
						t.Fatal(err)
					}
				}
				began := time.Now()
				if err := near.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				if took := time.Since(began); took > tt.most {
					t.Errorf("Close takes %v, want at most %v", took, tt.most)
				}
				if got, err := io.ReadAll(far); !tt.dead && (err != nil || !bytes.Equal(got, want)) {
					t.Errorf("got %d bytes, %v, want the %d that were written, and the end", len(got), err, len(want))
				}
			})
		})
	}
}

// travel takes its time, unless ctx ends.
func travel(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
