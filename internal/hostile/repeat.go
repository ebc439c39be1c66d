package hostile

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"
)

// NewRepeater starts a device that makes every second request twice, passes on
// either of the answers, and lets requests overtake others. It knows no
// WebSockets either.
func NewRepeater(t testing.TB, server string) (addr string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	return reverse(t, server, func(rt http.RoundTripper) http.RoundTripper {
		rt = stripped(rt)
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			var body []byte
			if r.Body != nil {
				var err error
				if body, err = io.ReadAll(r.Body); err != nil {
					return nil, err
				}
			}
			once := func(ctx context.Context) (*http.Response, error) {
				r := r.Clone(ctx)
				r.Body = io.NopCloser(bytes.NewReader(body))
				return rt.RoundTrip(r)
			}
			if r.Method == http.MethodPost && rand.IntN(2) == 0 {
				wg.Go(func() {
					if resp, err := once(ctx); err == nil {
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
				})
			}
			select {
			case <-time.After(rand.N(15 * time.Millisecond)):
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
			return once(r.Context())
		})
	}, nil)
}
