package server_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/ingress"
	"adit/internal/testport"
	"adit/server"
)

func TestTakeoverBySameInstance(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	same := func(o *agent.Options) { o.Instance = "laptop" }
	old := f.agent(t, same, httpTunnel(t, "web", saying(t, "old")))
	old.up(t)
	began := time.Now()
	f.agent(t, same, httpTunnel(t, "web", saying(t, "new"))).up(t)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the takeover took %v, want it at once", took)
	}
	visitor := f.visitor(t)
	for range 4 {
		if _, body := f.get(t, visitor, "web.example.com", "/"); body != "new /" {
			t.Errorf("got %q, want the new agent's answer", body)
		}
	}
	if err := old.ended(t); !errors.Is(err, agent.ErrSuperseded) {
		t.Errorf("the old agent ended with %v, want %v", err, agent.ErrSuperseded)
	}
}

func TestSeveralAgentsShareVisitors(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	agents := map[string]*runningAgent{}
	for _, name := range []string{"a", "b"} {
		agents[name] = f.agent(t, func(o *agent.Options) { o.Instance = name }, httpTunnel(t, "web", saying(t, name)))
		agents[name].up(t)
	}
	visitor := f.visitor(t)
	met := func(n int) map[string]int {
		t.Helper()
		got := map[string]int{}
		for range n {
			status, body := f.get(t, visitor, "web.example.com", "/")
			if status != 200 {
				t.Fatalf("got status %d", status)
			}
			got[strings.TrimSuffix(body, " /")]++
		}
		return got
	}
	if got := met(10); got["a"] != 5 || got["b"] != 5 {
		t.Errorf("got answers %v, want five of each", got)
	}
	// One is cut off: none of the requests that follow fails or waits.
	agents["a"].kill()
	f.logs(t, "carrier lost")
	began := time.Now()
	if got := met(10); got["b"] != 10 {
		t.Errorf("after a was cut off: got answers %v, want ten of b", got)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the requests took %v", took)
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	f := start(t, func(o *server.Options) {
		o.TCPPorts = []ingress.PortRange{{First: port, Last: port}}
		o.Hold = time.Minute
	})
	asked, answer := make(chan bool), make(chan bool)
	slow := upstream(t, func(w http.ResponseWriter, _ *http.Request) {
		http.NewResponseController(w).Flush()
		asked <- true
		<-answer
		io.WriteString(w, "all of it")
	})
	a := f.agent(t, nil, httpTunnel(t, "web", slow), tcpTunnel(t, "echo", port, echo(t, "hello")))
	a.up(t)
	away := f.agent(t, nil, httpTunnel(t, "away", slow))
	away.up(t)
	away.kill()

	got := make(chan string, 2)
	visitor := f.visitor(t)
	request := func(host string) {
		resp, err := visitor.Get("http://" + host + "/")
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		got <- fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Adit-Error"), " ", string(b), err)
	}
	go request("web.example.com")
	<-asked
	tcp, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	tcp.SetDeadline(time.Now().Add(patience))
	hello := make([]byte, 5)
	if _, err := io.ReadFull(tcp, hello); err != nil {
		t.Fatal(err)
	}

	stopped := make(chan error, 1)
	go func() { stopped <- f.stop() }()
	a.phase(t, agent.Reconnecting) // it was told to go elsewhere
	for {                          // until nobody is let in any more
		c, err := net.DialTimeout("tcp", f.Addr().String(), 50*time.Millisecond)
		if err != nil {
			break
		}
		c.Close()
	}

	// What was begun goes on.
	if _, err := io.WriteString(tcp, "still"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(tcp, hello); err != nil || string(hello) != "still" {
		t.Errorf("TCP visitor: got %q, %v, want its echo", hello, err)
	}
	tcp.Close()
	answer <- true
	if g, want := <-got, "200  all of it<nil>"; g != want {
		t.Errorf("got %q, want %q", g, want)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestDrainEndsWaits(t *testing.T) {
	t.Parallel()
	f := start(t, func(o *server.Options) { o.Hold, o.Grace = time.Minute, time.Minute })
	a := f.agent(t, nil, httpTunnel(t, "web", saying(t, "web")))
	a.up(t)
	a.kill()
	conn, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	f.logs(t, "carrier lost")
	// 100-continue is what the upstream would say: nobody does.
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	began := time.Now()
	if err := f.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("draining took %v with a visitor for whom no agent comes", took)
	}
	// It had a request, or no more than a conn, when the end came.
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil && resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %s, want 503 or the end", resp.Status)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		leave func(t *testing.T, f *fixture, a *runningAgent)
	}{
		{"agent is cut off", func(t *testing.T, f *fixture, a *runningAgent) {
			a.kill()
			f.logs(t, "carrier lost")
		}},
		{"agent has ended", func(t *testing.T, f *fixture, a *runningAgent) {
			a.stop()
			f.logs(t, "agent gone")
		}},
		{"server has just started", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, func(o *server.Options) { o.Hold = time.Minute })
			up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
				n, err := io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, n, " ", err)
			})
			if tt.leave != nil {
				a := f.agent(t, nil, httpTunnel(t, "web", up))
				a.up(t)
				tt.leave(t, f, a)
			}
			body := &countingBody{left: 8 << 20, read: make(chan bool)}
			answered := make(chan error, 1)
			visitor := f.visitor(t)
			go func() {
				resp, err := visitor.Post("http://web.example.com/", "text/plain", body)
				if err == nil {
					var got []byte
					got, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					if err == nil && string(got) != "8388608 <nil>" {
						err = fmt.Errorf("got status %d and %q, want the upstream's word that it has 8 MiB", resp.StatusCode, got)
					}
				}
				answered <- err
			}()
			<-body.read
			// What the kernel takes is sent, and then it stands still.
			for last := -1; last != body.sum(); {
				last = body.sum()
				select {
				case err := <-answered:
					t.Fatalf("answered without an agent: %v", err)
				case <-time.After(200 * time.Millisecond):
				}
			}
			if n := body.sum(); n >= 8<<20 {
				t.Errorf("%d bytes of the body were taken while the agent was away", n)
			}
			f.agent(t, nil, httpTunnel(t, "web", up)).up(t)
			if err := <-answered; err != nil {
				t.Error(err)
			}
		})
	}
}

// A countingBody is a body of zeros.
type countingBody struct {
	once sync.Once
	read chan bool // closed by the first Read

	mu   sync.Mutex
	left int
	n    int
}

func (b *countingBody) Read(p []byte) (int, error) {
	b.once.Do(func() { close(b.read) })
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(p), b.left)
	if n == 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	b.left -= n
	b.n += n
	return n, nil
}

func (b *countingBody) sum() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

func TestSessionEndsWithItsToken(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	scope := auth.Scope{IDs: []string{"web"}}
	// A token is taken for 30 s longer than it says, since clocks differ.
	mint := func(left time.Duration, scope auth.Scope) string {
		return f.mint(t, auth.TokenClaims{Subject: "me", Expires: time.Now().Add(left - 30*time.Second), Scope: scope})
	}
	s, err := f.dialSession(t, mint(3*time.Second, scope))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Bind(t.Context(), dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "web"}); err != nil {
		t.Fatal(err)
	}
	other := f.mint(t, auth.TokenClaims{Subject: "other", Scope: scope})
	for name, token := range map[string]string{
		"of somebody else":              other,
		"that does not allow the name":  mint(time.Hour, auth.Scope{IDs: []string{"api"}}),
		"that has expired":              mint(-time.Second, scope),
		"that is none":                  "x",
		"that is none, but rather long": strings.Repeat("x", 8<<10),
	} {
		if err := s.Refresh(t.Context(), token); err == nil {
			t.Errorf("a token %s was accepted", name)
		}
	}
	began := time.Now()
	if err := s.Refresh(t.Context(), mint(6*time.Second, scope)); err != nil {
		t.Fatal(err)
	}
	serve := make(chan error, 1)
	go func() { serve <- s.Serve(t.Context()) }()
	select {
	case err = <-serve:
	case <-time.After(patience):
		t.Fatal("the session lives on without a credential")
	}
	if _, credential := native.Ended(err); !credential {
		t.Errorf("the session ended with %v, want the word of the server that the credential expired", err)
	}
	if lived := time.Since(began); lived < 3500*time.Millisecond {
		t.Errorf("the session ended after %v, before its new token", lived)
	}
}

// A drain loses nothing: whoever got through to the server is answered, over
// conns of all ages and however late it came.
func TestDrainAnswersEverybody(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		delay time.Duration
	}{{"at once", 0}, {"with a delay", 200 * time.Millisecond}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, func(o *server.Options) { o.DrainDelay = tt.delay })
			f.agent(t, nil, httpTunnel(t, "web", saying(t, "web"))).up(t)
			var wg sync.WaitGroup
			var answered, asked atomic.Int64
			half := make(chan struct{})
			// exchange reports whether the conn can be used again. One that has
			// been may end before a request, which is to be sent again then.
			exchange := func(c net.Conn, r *bufio.Reader, again bool) bool {
				asked.Add(1)
				c.SetDeadline(time.Now().Add(patience))
				_, err := io.WriteString(c, "GET /x HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
				var resp *http.Response
				if err == nil {
					resp, err = http.ReadResponse(r, nil)
				}
				if err != nil {
					if !again {
						t.Errorf("exchange on a new conn: %v", err)
					}
					return false
				}
				body, err := io.ReadAll(resp.Body)
				if resp.StatusCode != 200 || string(body) != "web /x" || err != nil {
					t.Errorf("got %s %q %v, code %q", resp.Status, body, err, resp.Header.Get("Adit-Error"))
				}
				if answered.Add(1) == 200 {
					close(half)
				}
				return !resp.Close
			}
			for i := range 8 {
				wg.Go(func() {
					for {
						c, err := net.DialTimeout("tcp", f.Addr().String(), 500*time.Millisecond)
						if err != nil {
							return // it did not get through
						}
						r := bufio.NewReader(c)
						for again := false; exchange(c, r, again) && i%2 == 0 && !t.Failed(); again = true {
						}
						c.Close()
						if t.Failed() {
							return
						}
					}
				})
			}
			<-half
			began := time.Now()
			if err := f.stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
			if took := time.Since(began); took < tt.delay || took > tt.delay+3*time.Second {
				t.Errorf("the drain took %v", took)
			}
			wg.Wait()
			t.Logf("%d of %d were answered", answered.Load(), asked.Load())
		})
	}
}

func TestNotReadyWhileDraining(t *testing.T) {
	t.Parallel()
	f := start(t, func(o *server.Options) { o.DrainDelay = time.Second })
	a := f.agent(t, nil, httpTunnel(t, "web", saying(t, "web")))
	a.up(t)
	stopped := make(chan error, 1)
	go func() { stopped <- f.stop() }()
	a.phase(t, agent.Reconnecting) // it was told to look elsewhere
	visitor := f.visitor(t)
	if status, _ := f.get(t, visitor, "example.com", "/_adit/readyz"); status != 503 {
		t.Errorf("readyz: got %d, want 503", status)
	}
	if status, _ := f.get(t, visitor, "example.com", "/_adit/healthz"); status != 200 {
		t.Errorf("healthz: got %d, want 200", status)
	}
	if status, body := f.get(t, visitor, "web.example.com", "/"); status != 200 {
		t.Errorf("a visitor: got %d %q, want it served", status, body)
	}
	if st := f.Status(); st.Ready || !st.Draining {
		t.Errorf("got status %+v", st)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
}
