package hostile

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"
)

// reverse starts a device that reads requests for server, a host and port, and
// makes them anew through wrap, which may be nil.
func reverse(t testing.TB, server string, wrap func(http.RoundTripper) http.RoundTripper, modify func(*http.Response) error) (addr string) {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 32, IdleConnTimeout: patience}
	var rt http.RoundTripper = transport
	if wrap != nil {
		rt = wrap(rt)
	}
	quiet := log.New(io.Discard, "", 0)
	srv := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: server})
			r.Out.Host = r.In.Host
		},
		FlushInterval:  -1,
		Transport:      rt,
		ModifyResponse: modify,
		ErrorLog:       quiet,
	})
	srv.Config.ErrorLog = quiet
	srv.Config.ReadHeaderTimeout = time.Minute
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		transport.CloseIdleConnections()
	})
	return srv.Listener.Addr().String()
}
