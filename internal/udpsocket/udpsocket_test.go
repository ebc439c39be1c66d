package udpsocket

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
)

const patience = 20 * time.Second

// ways are those to move datagrams.
var ways = []struct {
	name string
	opts Options
}{{"many", Options{}}, {"plain", Options{Plain: true}}}

func listen(t *testing.T, network, addr string) *net.UDPConn {
	t.Helper()
	pc, err := net.ListenPacket(network, addr)
	if err != nil {
		t.Skipf("no %s at %s: %v", network, addr, err)
	}
	t.Cleanup(func() { pc.Close() })
	c := pc.(*net.UDPConn)
	c.SetReadBuffer(1 << 20)
	c.SetDeadline(time.Now().Add(patience))
	return c
}

func dial(t *testing.T, to net.Addr) *net.UDPConn {
	t.Helper()
	c, err := net.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.UDPConn)
}

// A letter is a datagram that has come.
type letter struct {
	from netip.AddrPort
	to   netip.Addr
	b    []byte
}

// receive returns the next datagrams, at least n, and the longest run.
func receive(t *testing.T, s *Socket, n int) (got []letter, longest int) {
	t.Helper()
	for len(got) < n {
		err := s.Receive(func(r Run) {
			before := len(got)
			for b := range r.All() {
				got = append(got, letter{r.From, r.To, bytes.Clone(b)})
			}
			if len(got)-before != r.Len() {
				t.Errorf("Len of a run = %d, and All yields %d", r.Len(), len(got)-before)
			}
			longest = max(longest, r.Len())
		})
		if err != nil {
			t.Fatalf("Receive after %d of %d datagrams: %v", len(got), n, err)
		}
	}
	return got, longest
}

func filled(i, n int) []byte { return bytes.Repeat([]byte{byte(i)}, n) }

// Datagrams of all sizes arrive whole and in order, and answers come from where
// was sent to.
func TestBothWays(t *testing.T) {
	t.Parallel()
	lists := map[string][]int{
		"one":           {5},
		"an empty one":  {0},
		"empty ones":    {0, 0, 5, 0},
		"the same":      slices.Repeat([]int{1400}, 40),
		"a last":        append(slices.Repeat([]int{1200}, 5), 7),
		"then an empty": append(slices.Repeat([]int{1200}, 5), 0),
		"mixed":         {1400, 1400, 0, 1, 1400, 3, 3, 3, 2, 2, 5, 65507, 65507, 1, 65507, 0, 9000, 9000},
		"growing":       {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20},
		"many small":    slices.Repeat([]int{3}, 150),
		"large":         slices.Repeat([]int{32000}, 7),
	}
	for _, way := range ways {
		for _, at := range []struct{ listen, to string }{
			{"127.0.0.1:0", "127.0.0.1"}, {"[::1]:0", "::1"},
			{"0.0.0.0:0", "127.0.0.2"}, {"[::]:0", "127.0.0.2"}, {"[::]:0", "::1"},
		} {
			t.Run(way.name+" "+at.listen+" "+at.to, func(t *testing.T) {
				t.Parallel()
				opts := way.opts
				opts.Local = true
				far := listen(t, "udp", at.listen)
				server := New(far, opts)
				port := uint16(far.LocalAddr().(*net.UDPAddr).Port)
				for name, sizes := range lists {
					c := dial(t, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(at.to), port)))
					visitor := New(c, way.opts)
					me := c.LocalAddr().(*net.UDPAddr).AddrPort()
					var list [][]byte
					for i, n := range sizes {
						list = append(list, filled(i, n))
					}
					for i := 0; i < len(list); {
						part := list[i : i+1]
						for bytes := len(part[0]); i+len(part) < len(list) && len(part) < 80 && bytes < 20000; { // which any buffer of a socket takes
							part = list[i : i+len(part)+1]
							bytes += len(part[len(part)-1])
						}
						if done, err := visitor.Send(Envelope{}, part); err != nil || done.Sent != len(part) {
							t.Fatalf("%s: Send = %+v, %v; want %d", name, done, err, len(part))
						}
						got, _ := receive(t, server, len(part))
						for k, l := range got {
							if !bytes.Equal(l.b, part[k]) {
								t.Fatalf("%s: datagram %d: got %d bytes, want %d", name, i+k, len(l.b), len(part[k]))
							}
							if netip.AddrPortFrom(l.from.Addr().Unmap(), l.from.Port()) != me {
								t.Fatalf("%s: from %v, want %v", name, l.from, me)
							}
							if l.to.IsValid() && l.to.String() != at.to {
								t.Fatalf("%s: sent to %v, want %s", name, l.to, at.to)
							}
						}
						if !got[0].to.IsValid() && way.name == "many" && runtime.GOOS == "linux" {
							t.Fatalf("%s: nobody says where it was sent to", name)
						}
						if at.to == "127.0.0.2" && !got[0].to.IsValid() {
							i += len(part) // the answer would come from elsewhere, and not be taken
							continue
						}
						e := Envelope{To: got[0].from, From: got[0].to, Prefix: []byte("re")}
						back := make([][]byte, len(part))
						for k, b := range part {
							back[k] = b[:min(len(b), 65000)] // with the prefix
						}
						if done, err := server.Send(e, back); err != nil || done.Sent != len(back) {
							t.Fatalf("%s: Send of an answer = %+v, %v; want %d", name, done, err, len(back))
						}
						answers, _ := receive(t, visitor, len(back))
						for k, l := range answers {
							if want := append([]byte("re"), back[k]...); !bytes.Equal(l.b, want) {
								t.Fatalf("%s: answer %d: got %d bytes, want %d", name, i+k, len(l.b), len(want))
							}
						}
						i += len(part)
					}
				}
			})
		}
	}
}

// What is too long is lost, and nothing else.
func TestTooLong(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			far := listen(t, "udp", "127.0.0.1:0")
			c := New(dial(t, far.LocalAddr()), way.opts)
			list := [][]byte{filled(1, 3), filled(2, 65508), filled(3, 3), filled(4, 65508), filled(5, 65508), filled(6, 3)}
			if done, err := c.Send(Envelope{}, list); err != nil || done != (Sent{Sent: 3, Lost: 3}) {
				t.Fatalf("Send = %+v, %v; want 3 sent and 3 lost", done, err)
			}
			got, _ := receive(t, New(far, way.opts), 3)
			for i, want := range []byte{1, 3, 6} {
				if !bytes.Equal(got[i].b, filled(int(want), 3)) {
					t.Errorf("datagram %d: got %v, want %d", i, got[i].b, want)
				}
			}
		})
	}
}

// A far side that has gone says so to Receive, and Send goes on.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			far := listen(t, "udp", "127.0.0.1:0")
			at := far.LocalAddr()
			c := New(dial(t, at), way.opts)
			far.Close()
			if _, err := c.Send(Envelope{}, [][]byte{filled(1, 1)}); err != nil {
				t.Fatal(err)
			}
			if err := c.Receive(func(Run) { t.Error("something was received") }); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("Receive: got %v, want ECONNREFUSED", err)
			}
			for range 3 { // each is told of the one before
				if _, err := c.Send(Envelope{}, [][]byte{filled(1, 1)}); err != nil {
					t.Fatal(err)
				}
			}
			again, err := net.ListenPacket("udp", at.String())
			if err != nil {
				t.Skipf("the port was taken meanwhile: %v", err)
			}
			defer again.Close()
			if done, err := c.Send(Envelope{}, [][]byte{filled(2, 2), filled(3, 2)}); err != nil || done.Sent != 2 {
				t.Fatalf("Send = %+v, %v; want both sent, though one before was refused", done, err)
			}
			again.SetReadDeadline(time.Now().Add(patience))
			got, _ := receive(t, New(again.(*net.UDPConn), way.opts), 2)
			if got[0].b[0] != 2 || got[1].b[0] != 3 {
				t.Errorf("got %v, want 2 and 3", got)
			}
		})
	}
}

// Who has gone does not keep others from being answered.
func TestRefusedByOneOfMany(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			far := listen(t, "udp", "127.0.0.1:0")
			server := New(far, way.opts)
			gone, here := dial(t, far.LocalAddr()), dial(t, far.LocalAddr())
			to := []netip.AddrPort{gone.LocalAddr().(*net.UDPAddr).AddrPort(), here.LocalAddr().(*net.UDPAddr).AddrPort()}
			gone.Close()
			const n = 20
			for i := range n {
				for _, a := range to {
					if done, err := server.Send(Envelope{To: a}, [][]byte{{byte(i)}}); err != nil || done.Sent != 1 {
						t.Fatalf("Send to %v = %+v, %v; want it sent", a, done, err)
					}
				}
			}
			if got, _ := receive(t, New(here, way.opts), n); len(got) != n || got[n-1].b[0] != n-1 {
				t.Errorf("got %d datagrams, want %d", len(got), n)
			}
		})
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			c := listen(t, "udp", "127.0.0.1:0")
			s := New(c, way.opts)
			ended := make(chan error, 1)
			go func() { ended <- s.Receive(func(Run) {}) }()
			runtime.Gosched()
			c.Close()
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Receive: got %v, want net.ErrClosed", err)
			}
			e := Envelope{To: netip.MustParseAddrPort("127.0.0.1:9")}
			if done, err := s.Send(e, [][]byte{{1}}); !errors.Is(err, net.ErrClosed) || done.Done() != 0 {
				t.Errorf("Send = %+v, %v; want net.ErrClosed", done, err)
			}
			if done, err := s.TrySend(e, [][]byte{{1}}); s.CanTry() && !errors.Is(err, net.ErrClosed) || done.Done() != 0 {
				t.Errorf("TrySend = %+v, %v; want net.ErrClosed", done, err)
			}
		})
	}
}

// An address of the other family is not one to send to.
func TestOtherFamily(t *testing.T) {
	t.Parallel()
	s := New(listen(t, "udp4", "127.0.0.1:0"), Options{})
	done, err := s.Send(Envelope{To: netip.MustParseAddrPort("[::1]:9")}, [][]byte{{1}, {2}})
	if err != nil || done != (Sent{Lost: 2}) {
		t.Errorf("Send = %+v, %v; want both lost", done, err)
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		length, size int
		want         string
	}{
		{0, 0, "[0]"}, {5, 0, "[5]"}, {5, 5, "[5]"}, {5, 7, "[5]"}, {10, 5, "[5 5]"}, {11, 5, "[5 5 1]"}, {65000, 32500, "[32500 32500]"},
	} {
		r := Run{B: make([]byte, tt.length), Size: tt.size}
		var got []int
		for b := range r.All() {
			got = append(got, len(b))
		}
		if fmt.Sprint(got) != tt.want || r.Len() != len(got) {
			t.Errorf("%d bytes of %d each: got %v and Len %d, want %s", tt.length, tt.size, got, r.Len(), tt.want)
		}
		for range r.All() {
			break
		}
	}
}
