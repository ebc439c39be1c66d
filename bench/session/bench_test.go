package session

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

const (
	message = 1 << 10  // bytes each way of one exchange
	block   = 64 << 10 // bytes of one write of a bulk transfer
)

// echo answers each message with itself.
func echo(c net.Conn) {
	buf := make([]byte, message)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return
		}
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// sink reads until it has seen the byte that ends a transfer, and answers.
func sink(c net.Conn) {
	buf := make([]byte, block)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if buf[n-1] == 1 {
			c.Write(buf[:1])
			return
		}
	}
}

// measure runs f b.N times from workers goroutines, and reports the CPU time
// for each op and, if size is not 0, for each GB.
func measure(b *testing.B, p *pair, workers, size int, f func(n int) error) {
	b.ReportAllocs()
	b.SetBytes(int64(size))
	before := p.cpu()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range workers {
		n := b.N / workers
		if w < b.N%workers {
			n++
		}
		wg.Go(func() {
			if err := f(n); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	used := p.cpu() - before
	b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(b.N), "cpu-us/op")
	if size > 0 {
		b.ReportMetric(used.Seconds()*1e9/float64(b.N*size), "cpu-s/GB")
	}
}

// BenchmarkNewStream opens a stream for each exchange of 1 KB both ways.
func BenchmarkNewStream(b *testing.B) { exchanges(b, kinds[:2], false) }

// BenchmarkReusedStream makes all exchanges on as many streams as are at work.
func BenchmarkReusedStream(b *testing.B) { exchanges(b, kinds[:2], true) }

func exchanges(b *testing.B, kinds []kind, reuse bool) {
	for _, workers := range []int{1, 64} {
		for _, k := range kinds {
			b.Run(fmt.Sprintf("workers=%d/mux=%s", workers, k.name), func(b *testing.B) {
				p := newPair(b, k, "echo")
				measure(b, p, workers, 0, func(n int) (err error) {
					buf := make([]byte, message)
					var c net.Conn
					for i := range n {
						if c == nil {
							if c, err = p.open(); err != nil {
								return err
							}
						}
						if _, err := c.Write(buf); err != nil {
							return err
						}
						if _, err := io.ReadFull(c, buf); err != nil {
							return err
						}
						if !reuse || i == n-1 {
							c.Close()
							c = nil
						}
					}
					return nil
				})
			})
		}
	}
}

// drain reads to the end as io.Copy does it, and answers.
func drain(c net.Conn) {
	if _, err := io.Copy(discard{}, c); err == nil {
		c.Write([]byte{1})
	}
}

// discard is io.Discard without its ReadFrom, which would read 8 KB at a time.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkCopy sends blocks of 64 KiB as a tunnel does, with io.Copy on both
// ends, on one stream and on eight.
func BenchmarkCopy(b *testing.B) {
	for _, streams := range []int{1, 8} {
		for _, k := range kinds[:2] {
			b.Run(fmt.Sprintf("streams=%d/mux=%s", streams, k.name), func(b *testing.B) {
				p := newPair(b, k, "drain")
				measure(b, p, streams, block, func(n int) error {
					c, err := p.open()
					if err != nil {
						return err
					}
					defer c.Close()
					if _, err := io.Copy(c, io.LimitReader(zeros{}, int64(n)*block)); err != nil {
						return err
					}
					if hc, ok := c.(interface{ CloseWrite() error }); ok {
						err = hc.CloseWrite()
					} else {
						err = c.Close() // yamux closes one direction
					}
					if err != nil {
						return err
					}
					_, err = io.ReadFull(c, make([]byte, 1))
					return err
				})
			})
		}
	}
}

// zeros is an endless source that costs nothing.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// BenchmarkBulk sends blocks of 64 KiB, on one stream and on eight.
func BenchmarkBulk(b *testing.B) {
	for _, streams := range []int{1, 8} {
		for _, k := range kinds {
			if k.name == "tcp" && streams > 1 {
				continue
			}
			b.Run(fmt.Sprintf("streams=%d/mux=%s", streams, k.name), func(b *testing.B) {
				p := newPair(b, k, "sink")
				measure(b, p, streams, block, func(n int) error {
					c, err := p.open()
					if err != nil {
						return err
					}
					defer c.Close()
					buf := make([]byte, block)
					for i := range n {
						if i == n-1 {
							buf[len(buf)-1] = 1
						}
						if _, err := c.Write(buf); err != nil {
							return err
						}
					}
					if n > 0 {
						_, err = io.ReadFull(c, buf[:1])
					}
					return err
				})
			})
		}
	}
}
