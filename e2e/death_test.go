package e2e

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A death is one process that is killed with many connections open through it
// and another one. Their other ends see that they are over, the survivor keeps
// nothing of them, and serves the next ones once the victim is back.
type death struct {
	victim, survivor *process
	revive           func()        // starts the victim again
	atOnce           bool          // and not when the connections have ended
	waits            bool          // whoever comes in between waits for that
	limit            time.Duration // until the connections have ended
}

func (td *tide) survives(t *testing.T, d death) {
	t.Helper()
	stop := td.echo(t)
	c, err := td.dial()
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, c, "hello")
	td.procs, td.before = []*process{d.survivor}, []int{descriptors(t, d.survivor)}
	c.Close()
	stop()

	callers, far := td.open(t)
	d.victim.kill()
	killed := time.Now()
	if d.atOnce {
		d.revive()
	}
	near := make([]net.Conn, len(callers))
	for i, c := range callers {
		near[i] = c
	}
	over(t, "caller", near)
	over(t, "target", far)
	took := time.Since(killed)
	if took > d.limit {
		t.Errorf("it took %s until all had ended, want at most %s", took, d.limit)
	}
	for _, c := range append(near, far...) {
		c.Close()
	}
	td.ebbs(t, "the other side was killed")

	defer td.echo(t)()
	var next []*net.TCPConn
	come := func() {
		c, err := td.dial()
		if err != nil {
			t.Fatal(err)
		}
		next = append(next, c)
	}
	if d.waits {
		come()
	}
	if !d.atOnce {
		d.revive()
	}
	come()
	for _, c := range next {
		echoes(t, c, "is anybody there?")
		c.Close()
	}
	td.ebbs(t, "it is back")
	if n := goroutines(t, d.survivor); n > idleGoroutines {
		t.Errorf("%s has %d goroutines, want at most %d", d.survivor.name, n, idleGoroutines)
	}
	t.Logf("%d connections had ended %s after the kill", len(callers), took.Round(time.Millisecond))
}

func TestForwardKilled(t *testing.T) {
	// The server cannot tell a kill from a network that is gone, and neither
	// side whether the other one comes back, before the resume window is over.
	const short = time.Second
	for _, tt := range []struct {
		name   string
		window time.Duration
		server bool // is killed, and not the agent
		atOnce bool
	}{
		{"agent", short, false, false},
		{"server", short, true, false},
		{"server, which is back at once", time.Minute, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			td := newTide(t)
			s := startServer(t, "--forward", td.ln.Addr().String(), "--resume-window", tt.window.String())
			begin := func() *process {
				a := s.agent(t, "forward", td.through+":"+td.ln.Addr().String())
				waitListens(t, a, "  ->")
				return a
			}
			d := death{victim: begin(), survivor: s.process, limit: short + 8*time.Second, atOnce: tt.atOnce}
			d.revive = func() { begin() }
			if tt.server {
				d.victim, d.survivor = d.survivor, d.victim
				d.waits = !tt.atOnce
				d.revive = func() {
					s.start(t)
					waitAccepts(t, s.process, s.addr)
				}
			}
			td.survives(t, d)
		})
	}
}

// What nginx answers while the server behind it is away is not taken for the
// server's word: whoever comes waits.
func TestForwardWaitsForServerBehindNginx(t *testing.T) {
	t.Parallel()
	td := newTide(t)
	front := freePort(t)
	s := startServer(t, "--public-url", "https://tunnel.example.com:"+front, "--trusted-proxies", "127.0.0.1", "--forward", td.ln.Addr().String())
	ca := documentedNginx(t, front, s.addr)
	a := start(t, "agent", aditCommand([]string{binary, "forward", td.through + ":" + td.ln.Addr().String(),
		"--server", "wss://localhost:" + front, "--secret-file", s.secret, "--ca-file", ca}))
	waitListens(t, a, "  ->")
	defer td.echo(t)()
	come := func() *net.TCPConn {
		c, err := td.dial()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := come()
	echoes(t, first, "hello")
	first.Close()
	s.kill()
	a.waitLog(t, "word of nginx", 20*time.Second, func(log string) bool { return strings.Contains(log, "502") })
	c := come()
	defer c.Close()
	s.start(t)
	echoes(t, c, "is anybody there?")
}

func TestTCPOverWebsocketKilled(t *testing.T) {
	for _, name := range []string{"server", "client"} {
		t.Run(name, func(t *testing.T) {
			td := newTide(t)
			at := "127.0.0.1:" + freePort(t)
			begin := func(argv ...string) *process {
				p := start(t, argv[0], aditCommand(append([]string{binary, "tcp-over-websocket"}, argv...)))
				waitListens(t, p, "Listening to")
				return p
			}
			server := []string{"server", "-listen_ws", at, "-connect_tcp", td.ln.Addr().String()}
			client := []string{"client", "-listen_tcp", td.through, "-connect_ws", "ws://" + at}
			d := death{victim: begin(server...), survivor: begin(client...), revive: func() { begin(server...) }, limit: 8 * time.Second}
			if name == "client" {
				d.victim, d.survivor, d.revive = d.survivor, d.victim, func() { begin(client...) }
			}
			td.survives(t, d)
		})
	}
}

// open returns both ends of many connections.
func (td *tide) open(t *testing.T) (callers []*net.TCPConn, far []net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn)
	n := td.many(t)
	go func() { // until the last one has come, or none comes for a while
		defer close(accepted)
		for range n {
			td.ln.SetDeadline(time.Now().Add(30 * time.Second))
			c, err := td.ln.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			accepted <- c
		}
	}()
	callers = make([]*net.TCPConn, n)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			c, err := td.dial()
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
				return
			}
			io.WriteString(c, "x") // it reads no more than that
			callers[i] = c
		})
	}
	for c := range accepted {
		c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		far = append(far, c)
	}
	wg.Wait()
	td.ln.SetDeadline(time.Time{})
	if t.Failed() {
		t.FailNow()
	}
	return callers, far
}

// over reads from ends until they say that it is over.
func over(t *testing.T, what string, ends []net.Conn) {
	t.Helper()
	var wg sync.WaitGroup
	for i, c := range ends {
		wg.Go(func() {
			if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
				t.Errorf("%s %d read %d, %v, want that it is over", what, i, n, err)
			}
		})
	}
	wg.Wait()
}
