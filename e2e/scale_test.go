package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A tide is many connections through two processes to a target, and whether
// these are as they were before when it has gone.
type tide struct {
	through string                 // where callers connect to
	greet   func(c net.Conn) error // what they say first, if anything
	ln      *net.TCPListener
	procs   []*process
	before  []int // descriptors
}

// dial connects a caller to the target.
func (td *tide) dial() (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp", td.through, 30*time.Second)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	if td.greet != nil {
		err = td.greet(c)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// many is how many connections a tide has. This process has both ends of each.
func (td *tide) many(t *testing.T) int {
	t.Helper()
	if !long() {
		return 400
	}
	const most = 5000
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur < 2*most+200 {
		t.Skipf("this process may open %d files (%v), and needs %d: ulimit -n", files.Cur, err, 2*most+200)
	}
	return most
}

// descriptors returns how many files a process has open.
func descriptors(t *testing.T, p *process) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
	if err != nil {
		t.Fatalf("descriptors of %s: %v", p.name, err)
	}
	return len(list)
}

// idlePipes is how many descriptors a process keeps for pipes.
const idlePipes = 2 * 8

// ebbs waits until each process has the descriptors that it had before.
func (td *tide) ebbs(t *testing.T, after string) {
	t.Helper()
	for i, p := range td.procs {
		eventually(t, p.name+" lets go of connections after "+after, 30*time.Second, func(context.Context) error {
			if n, want := descriptors(t, p), td.before[i]+idlePipes; n > want {
				return fmt.Errorf("it has %d descriptors, want at most %d", n, want)
			}
			return nil
		})
	}
}

// echo answers what comes until stop is called, which cuts what is open.
func (td *tide) echo(t *testing.T) (stop func()) {
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			c, err := td.ln.Accept()
			if err != nil {
				select {
				case <-done:
				default:
					t.Error(err)
				}
				return
			}
			wg.Go(func() {
				defer c.Close()
				ended := make(chan struct{})
				defer close(ended)
				wg.Go(func() {
					select {
					case <-done:
						c.Close()
					case <-ended:
					}
				})
				// Without splicing, which has two more files for each.
				io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 4<<10))
			})
		}
	})
	return func() {
		close(done)
		td.ln.SetDeadline(time.Unix(1, 0))
		wg.Wait()
		td.ln.SetDeadline(time.Time{})
	}
}

// storm connects as many callers at once, and has each say its number.
func (td *tide) storm(t *testing.T) []*net.TCPConn {
	t.Helper()
	callers := make([]*net.TCPConn, td.many(t))
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			c, err := td.dial()
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
				return
			}
			callers[i] = c
			said := fmt.Appendf(nil, "%08d", i)
			c.Write(said)
			got := make([]byte, len(said))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != string(said) {
				t.Errorf("caller %d: got %q, %v, want %q", i, got, err, said)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return callers
}

// run is the whole test.
func (td *tide) run(t *testing.T) {
	stop := td.echo(t)
	warm, err := td.dial()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(warm, "warm")
	io.ReadFull(warm, make([]byte, 4))
	for _, p := range td.procs {
		td.before = append(td.before, descriptors(t, p)) // with one connection
	}
	warm.Close()

	callers := td.storm(t)
	var wg sync.WaitGroup
	for _, c := range callers[:16] { // with pipes
		wg.Go(func() {
			const size = 4 << 20
			wg.Go(func() {
				io.Copy(c, body(size))
				c.CloseWrite()
			})
			if n, err := io.Copy(io.Discard, c); n != size || err != nil {
				t.Errorf("bulk: got %d bytes, %v, want %d", n, err, size)
			}
		})
	}
	wg.Wait()
	for i, c := range callers {
		if i%3 == 0 {
			c.SetLinger(0) // it resets
		}
		c.Close()
	}
	td.ebbs(t, "a storm")
	stop()

	// A target that accepts and says nothing.
	for _, c := range td.silence(t) {
		c.Close()
	}
	td.ebbs(t, "silence")
	td.ln.SetDeadline(time.Time{})

	// A target that is not there.
	td.ln.Close()
	for range td.many(t) {
		wg.Go(func() {
			c, err := td.dial()
			if err != nil {
				return // a reset that comes at once may look like this
			}
			defer c.Close()
			if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
				t.Errorf("target down: read %d, %v, want that the connection is over", n, err)
			}
		})
	}
	wg.Wait()
	td.ebbs(t, "a target that is down")

	// Callers who leave at once, some of them in the middle of a word.
	for i := range td.many(t) {
		wg.Go(func() {
			c, err := net.DialTimeout("tcp", td.through, 30*time.Second)
			if err != nil {
				return // as above
			}
			io.WriteString(c, "\x05\x01\x00\x05\x01\x00"[:i%7])
			if i%2 == 0 {
				c.(*net.TCPConn).SetLinger(0)
			}
			c.Close()
		})
	}
	wg.Wait()
	if c, err := td.dial(); err == nil { // whoever is met last: all the others have been let in then
		c.Read(make([]byte, 1))
		c.Close()
	}
	td.ebbs(t, "callers who leave")
	for _, p := range td.procs {
		if n := goroutines(t, p); n > idleGoroutines {
			t.Errorf("%s has %d goroutines after it all, want at most %d", p.name, n, idleGoroutines)
		}
	}
}

// idleGoroutines is more than a process has that does nothing, and less than
// there are callers.
const idleGoroutines = 100

// goroutines ends a process, which thereby says how many goroutines it had.
func goroutines(t *testing.T, p *process) int {
	t.Helper()
	before, _ := p.log.read()
	syscall.Kill(p.pid, syscall.SIGQUIT)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not end", p.name)
	}
	text, _ := p.log.read()
	n := strings.Count(text, "\ngoroutine ") - strings.Count(before, "\ngoroutine ")
	if n == 0 {
		t.Fatalf("%s does not say what its goroutines are", p.name)
	}
	return n
}

// silence connects callers that hear nothing.
func (td *tide) silence(t *testing.T) (ends []net.Conn) {
	t.Helper()
	for range 100 {
		td.ln.SetDeadline(time.Now().Add(30 * time.Second))
		c, err := td.dial()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "is anybody there?")
		far, err := td.ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() { // until the caller has left
			defer far.Close()
			io.Copy(io.Discard, far)
		}()
		ends = append(ends, c)
	}
	return ends
}

func newTide(t *testing.T) *tide {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &tide{ln: ln.(*net.TCPListener), through: "127.0.0.1:" + freePort(t)}
}

func TestTideThroughTCPOverWebsocket(t *testing.T) {
	td := newTide(t)
	at := "127.0.0.1:" + freePort(t)
	for _, argv := range [][]string{
		{"server", "-listen_ws", at, "-connect_tcp", td.ln.Addr().String()},
		{"client", "-listen_tcp", td.through, "-connect_ws", "ws://" + at},
	} {
		p := start(t, argv[0], aditCommand(append([]string{binary, "tcp-over-websocket"}, argv...)))
		waitListens(t, p, "Listening to")
		td.procs = append(td.procs, p)
	}
	td.run(t)
}

func TestTideThroughForward(t *testing.T) {
	td := newTide(t)
	s := startServer(t, "--forward", td.ln.Addr().String())
	a := s.agent(t, "forward", td.through+":"+td.ln.Addr().String())
	waitListens(t, a, "  ->")
	td.procs = []*process{s.process, a}
	td.run(t)
}

func TestTideThroughSOCKS(t *testing.T) {
	td := newTide(t)
	target := td.ln.Addr().String()
	s := startServer(t, "--forward", target)
	_, port, _ := net.SplitHostPort(td.through)
	a := s.agent(t, "socks", port)
	waitListens(t, a, "  ->")
	td.procs = []*process{s.process, a}
	var turn atomic.Int32
	td.greet = func(c net.Conn) error {
		if turn.Add(1)%2 == 0 {
			return greetCONNECT(c, target)
		}
		return greetSOCKS5(c, netip.MustParseAddrPort(target))
	}
	td.run(t)
}

// greetSOCKS5 has a conn lead to an IPv4 target.
func greetSOCKS5(c net.Conn, target netip.AddrPort) error {
	b := append([]byte("\x05\x01\x00\x05\x01\x00\x01"), target.Addr().AsSlice()...)
	c.Write(append(b, byte(target.Port()>>8), byte(target.Port())))
	var answer [2 + 10]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return err
	}
	if answer[3] != 0 {
		return fmt.Errorf("SOCKS5 says %d", answer[3])
	}
	return nil
}

// greetCONNECT does so with HTTP.
func greetCONNECT(c net.Conn, target string) error {
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\n\r\n", target)
	const want = "HTTP/1.1 200 Connection established\r\n\r\n"
	answer := make([]byte, len(want))
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != want {
		return fmt.Errorf("got %q, %v, want %q", answer, err, want)
	}
	return nil
}
