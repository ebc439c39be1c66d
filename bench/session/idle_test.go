package session

import (
	"net"
	"runtime"
	"sync"
	"testing"
)

// BenchmarkIdle reports the memory, in bytes of heap and stacks, of both ends
// of an idle session and of an idle stream.
func BenchmarkIdle(b *testing.B) {
	const sessions, streams = 500, 5000
	for _, k := range kinds[:2] {
		b.Run("mux="+k.name, func(b *testing.B) {
			var wg sync.WaitGroup
			defer wg.Wait()
			var closers []func()
			defer func() {
				for _, f := range closers {
					f()
				}
			}()
			var open func() (net.Conn, error)
			var accept func() (net.Conn, error)
			base := memory()
			for range sessions {
				var closeMux func()
				open, accept, closeMux = inProcess(b, k)
				closers = append(closers, closeMux)
			}
			b.ReportMetric(float64(memory()-base)/sessions, "B/session")

			base = memory()
			held := make([]net.Conn, 0, 2*streams)
			for range streams {
				got := make(chan net.Conn, 1)
				wg.Go(func() {
					c, err := accept()
					if err != nil {
						b.Error(err)
					}
					got <- c
				})
				c, err := open()
				if err != nil {
					b.Fatal(err)
				}
				if _, err := c.Write([]byte("x")); err != nil {
					b.Fatal(err)
				}
				peer := <-got
				if _, err := peer.Read(make([]byte, 1)); err != nil {
					b.Fatal(err)
				}
				held = append(held, c, peer)
			}
			wg.Wait()
			b.ReportMetric(float64(memory()-base)/streams, "B/stream")
			for _, c := range held {
				c.Close()
			}
			b.ReportMetric(0, "ns/op") // means nothing here
		})
	}
}

// memory returns what heap and stacks hold after garbage collection.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// inProcess returns a session whose agent is in this process too.
func inProcess(b *testing.B, k kind) (open, accept func() (net.Conn, error), closeMux func()) {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	type result struct {
		accept func() (net.Conn, error)
		err    error
	}
	agent := make(chan result, 1)
	go func() {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			agent <- result{nil, err}
			return
		}
		accept, err := k.agent(c)
		agent <- result{accept, err}
	}()
	c, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	open, closeMux, err = k.server(c)
	if err != nil {
		b.Fatal(err)
	}
	r := <-agent
	if r.err != nil {
		b.Fatal(r.err)
	}
	return open, r.accept, closeMux
}
