package ingress

import (
	"context"
	"net/http"
	"testing"

	"adit/tunnel"
)

// TestFinishedNamesTheRoute is for agents with several names: what is told of a
// request has the one that it was for.
func TestFinishedNamesTheRoute(t *testing.T) {
	t.Parallel()
	up := startUpstream(t, http.NotFoundHandler())
	for name, tt := range map[string]struct{ id, want tunnel.ID }{
		"another name than the tunnel's": {"shop", "shop"},
		"none":                           {"", up.ID()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := make(chan Finished, 1)
			_, addr := startHTTP(t, HTTPOptions{
				Router: routerFunc(func(context.Context, string) (Target, error) {
					return Target{Tunnel: up, ID: tt.id}, nil
				}),
				OnRequest: func(f Finished) { done <- f },
			})
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = "shop.example.com"
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := <-done; got.ID != tt.want {
				t.Errorf("got the ID %q, want %q", got.ID, tt.want)
			}
		})
	}
}
