package hostile

import (
	"net/http"
	"testing"
)

// NewStripper starts a device that knows no WebSockets: it passes on what it
// understands of HTTP, and Upgrade is not among that.
func NewStripper(t testing.TB, server string) (addr string) {
	t.Helper()
	return reverse(t, server, stripped, nil)
}

func stripped(rt http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		r.Header.Del("Upgrade")
		r.Header.Del("Connection")
		return rt.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
