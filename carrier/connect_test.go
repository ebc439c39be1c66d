package carrier_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"adit/carrier"
	"adit/internal/hostile"
	"adit/internal/wayout"
)

// Through a proxy on this machine the bytes leave it all the same: they are
// masked with a key that nobody can foresee (RFC 6455, section 10.3).
func TestNoZeroMaskThroughProxy(t *testing.T) {
	t.Parallel()
	heads := make(chan http.Header, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heads <- r.Header.Clone()
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(s.Close)
	p := hostile.NewProxy(t, hostile.ProxyOptions{})
	through := &wayout.Dialer{Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("http://" + p.Addr) }}
	for _, tt := range []struct {
		name string
		out  *wayout.Dialer
		want []string
	}{{"straight", nil, []string{"zero"}}, {"through a proxy", through, nil}} {
		d := carrier.Dialer{URL: s.URL, ZeroMask: true, Out: tt.out}
		_, err := d.Dial(t.Context())
		if _, ok := errors.AsType[*carrier.StatusError](err); !ok {
			t.Fatalf("%s: Dial = %v", tt.name, err)
		}
		if got := (<-heads)["Adit-Mask"]; !slices.Equal(got, tt.want) {
			t.Errorf("%s: Adit-Mask is %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := p.Asked(); !slices.Equal(got, []string{strings.TrimPrefix(s.URL, "http://")}) {
		t.Errorf("the proxy was asked for %q", got)
	}
}
