package wsconn

import (
	"fmt"
	"io"
	"sync"
	"testing"
)

// BenchmarkBulk sends messages of 64 KiB one way.
func BenchmarkBulk(b *testing.B) {
	for _, way := range []string{"tcp", "tls"} {
		for _, dir := range []string{"to server", "to client"} {
			for _, room := range []int{0, 14} {
				b.Run(fmt.Sprintf("%s/%s/room %d", way, dir, room), func(b *testing.B) {
					from, to := newPair(b, way)
					if dir == "to client" {
						from, to = to, from
					}
					const size = 64 << 10
					b.SetBytes(size)
					b.ReportAllocs()
					var wg sync.WaitGroup
					wg.Go(func() {
						buf := make([]byte, size+room)
						for left := size * b.N; left > 0; {
							n, err := to.Read(buf)
							if err != nil {
								b.Error(err)
								return
							}
							left -= n
						}
					})
					buf := make([]byte, 14+size)
					for range b.N {
						done, err := from.TryWriteMessage(buf, 14)
						if err == nil && !done {
							err = from.FlushMessage()
						}
						if err != nil {
							b.Fatal(err)
						}
					}
					wg.Wait()
				})
			}
		}
	}
}

// BenchmarkPingPong sends a message of 100 bytes there and back, with the
// waiting that an idle session does.
func BenchmarkPingPong(b *testing.B) {
	for _, way := range []string{"tcp", "tls"} {
		b.Run(way, func(b *testing.B) {
			client, server := newPair(b, way)
			b.ReportAllocs()
			one := func(c *Conn, buf []byte, send bool) error {
				if send {
					done, err := c.TryWriteMessage(buf, 14)
					if err == nil && !done {
						err = c.FlushMessage()
					}
					return err
				}
				if err := c.WaitRead(); err != nil {
					return err
				}
				_, err := io.ReadFull(c, buf[14:])
				return err
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				buf := make([]byte, 114)
				for i := range 2 * b.N {
					if err := one(server, buf, i%2 == 1); err != nil {
						b.Error(err)
						return
					}
				}
			})
			buf := make([]byte, 114)
			for i := range 2 * b.N {
				if err := one(client, buf, i%2 == 0); err != nil {
					b.Fatal(err)
				}
			}
			wg.Wait()
		})
	}
}

func BenchmarkXOR(b *testing.B) {
	for _, size := range []int{100, 1000, 2048, 65536} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				xor(p, p, 0x12345678)
			}
		})
	}
}
