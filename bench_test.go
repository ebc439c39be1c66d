package adit_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"adit"
	"adit/adittest"
)

// Requests of one visitor each on its own conn, through a server on loopback, to
// a handler of the same program.
func BenchmarkListen(b *testing.B) {
	srv := adittest.NewServer(b)
	l := srv.Listen(b, adit.WithID("web"))
	s := &http.Server{Handler: http.HandlerFunc(hello)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(l)
	}()
	defer func() { s.Close(); <-served }()
	request(b, srv, l.URL())
}

// The same to an upstream that listens on a port.
func BenchmarkForward(b *testing.B) {
	srv := adittest.NewServer(b)
	up := httptest.NewServer(http.HandlerFunc(hello))
	defer up.Close()
	request(b, srv, srv.Forward(b, up.URL, adit.WithID("web")).URL())
}

func request(b *testing.B, srv *adittest.Server, url string) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := srv.Client().Get(url)
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}
