package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"adit/internal/hostile"
)

// A between is what stands between an agent and its server, and the carriers
// that get through it, best first.
type between struct {
	name     string
	start    func(t *testing.T, server string) (addr string)
	carriers []string
}

var betweens = []between{
	{"nothing", func(_ *testing.T, s string) string { return s }, []string{"websocket", "stream", "poll"}},
	{"nginx, as it comes", nginxBetween, []string{"stream", "poll"}},
	{"haproxy, as it comes", haproxyBetween, []string{"websocket", "stream", "poll"}},
	{"strips Upgrade", func(t *testing.T, s string) string { return hostile.NewStripper(t, s) }, []string{"stream", "poll"}},
	{"holds back 64 KiB", func(t *testing.T, s string) string { return hostile.NewBuffer(t, s, 64<<10) }, []string{"poll"}},
	{"holds back whole responses", func(t *testing.T, s string) string { return hostile.NewBuffer(t, s, 0) }, []string{"poll"}},
	{"ends connections after 5 s", func(t *testing.T, s string) string { return hostile.NewKiller(t, s, 5*time.Second) }, []string{"websocket", "stream", "poll"}},
	{"repeats and reorders requests", func(t *testing.T, s string) string { return hostile.NewRepeater(t, s) }, []string{"stream", "poll"}},
	{"300 ms away", func(t *testing.T, s string) string { return hostile.NewDelay(t, s, 300*time.Millisecond) }, []string{"websocket", "stream", "poll"}},
	{"20 ms away", func(t *testing.T, s string) string { return hostile.NewDelay(t, s, 20*time.Millisecond) }, []string{"websocket", "stream", "poll"}},
	{"HTTP/1.0, closes", func(t *testing.T, s string) string { return hostile.NewHTTP10(t, s) }, []string{"poll"}},
}

// nginxBetween is an nginx that knows no more of adit than where it is.
func nginxBetween(t *testing.T, server string) string {
	t.Helper()
	at := "127.0.0.1:" + freePort(t)
	p := nginxWith(t, fmt.Sprintf("server { listen %s; location / { proxy_pass http://%s; proxy_set_header Host $http_host; } }", at, server), "")
	waitAccepts(t, p, at)
	return at
}

// haproxyBetween is the same of haproxy.
func haproxyBetween(t *testing.T, server string) string {
	t.Helper()
	program := need(t, "haproxy")
	at := "127.0.0.1:" + freePort(t)
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	conf := fmt.Sprintf("defaults\n mode http\n timeout client 1m\n timeout server 1m\n timeout connect 5s\nfrontend in\n bind %s\n default_backend out\nbackend out\n server adit %s\n", at, server)
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "haproxy", exec.Command(program, "-db", "-f", path))
	waitAccepts(t, p, at)
	return at
}

// carried is a server, and agents of it that come through something.
type carried struct {
	*server
	forward *process
	ssh     []string // a login through the forward
}

func startCarried(t *testing.T, b between, carrier string, d *sshd) *carried {
	t.Helper()
	s := startServer(t, "--forward", "127.0.0.1:"+d.port)
	through := b.start(t, s.addr)
	return s.carried(t, d, func(args ...string) *process {
		return s.agentVia(t, through, nil, append(args, "--carrier", carrier)...)
	})
}

// carried starts the agents, with what they are told here.
func (s *server) carried(t *testing.T, d *sshd, agent func(args ...string) *process) *carried {
	t.Helper()
	port := freePort(t)
	agent("http", upstream(t, carriedUpstream), "--id", "web")
	f := agent("forward", port+":127.0.0.1:"+d.port)
	s.waitTunnel(t, "web")
	waitListens(t, f, port+"  ->")
	c := &carried{server: s, forward: f, ssh: slices.Clip(d.login(t, "127.0.0.1", port))}
	waitLogin(t, c.ssh)
	return c
}

// carriedUpstream is what visitors reach.
func carriedUpstream(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/body":
		size, _ := strconv.ParseInt(r.URL.RawQuery, 10, 64)
		if r.Method == http.MethodPut {
			var c checker
			if n, err := io.Copy(&c, r.Body); err != nil || n != size {
				http.Error(w, fmt.Sprint(n, " bytes, ", err), http.StatusBadRequest)
			}
			return
		}
		io.Copy(w, body(size))
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for range 10 {
			fmt.Fprintf(w, "data: %d\n\n", time.Now().UnixNano())
			http.NewResponseController(w).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	case "/echo":
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	}
}

// carriedSize is how much a transfer has.
func carriedSize() int64 {
	if long() {
		return 200 << 20
	}
	return 3 << 20
}

// transfer moves a body down and up, and returns how fast that was.
func (c *carried) transfer(t *testing.T, size int64) (down, up float64) {
	t.Helper()
	visitor := c.visitor(t)
	url := fmt.Sprintf("%s/body?%d", c.hostURL("web"), size)
	began := time.Now()
	resp, err := visitor.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	var check checker
	n, err := io.Copy(&check, resp.Body)
	resp.Body.Close()
	if err != nil || n != size {
		t.Fatalf("download: %d bytes of %d, %v", n, size, err)
	}
	down = float64(size) / 1e6 / time.Since(began).Seconds()
	began = time.Now()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, body(size))
	if err != nil {
		t.Fatal(err)
	}
	resp, err = visitor.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("upload: %s, %s", resp.Status, text)
	}
	return down, float64(size) / 1e6 / time.Since(began).Seconds()
}

// converse runs ssh, events and a WebSocket.
func (c *carried) converse(t *testing.T) {
	t.Helper()
	if got := run(t, time.Minute, c.ssh[0], append(c.ssh[1:], "seq 1 20000")...); strings.Count(got, "\n") != 20000 {
		t.Errorf("ssh: got %d lines, want 20000", strings.Count(got, "\n"))
	}
	resp, err := c.visitor(t).Get(c.hostURL("web") + "/events")
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	events := bufio.NewScanner(resp.Body) // a read may end in the middle of a line
	for events.Scan() {
		sent, ok := strings.CutPrefix(events.Text(), "data: ")
		if !ok {
			continue
		}
		got++
		ns, err := strconv.ParseInt(sent, 10, 64)
		if err != nil {
			t.Errorf("event %d: %v", got, err)
		}
		if late := time.Since(time.Unix(0, ns)); late > 3*time.Second {
			t.Errorf("event %d came after %s", got, late)
		}
	}
	resp.Body.Close()
	if got != 10 {
		t.Errorf("%d events came, want 10", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, c.hostURL("web")+"/echo", &websocket.DialOptions{HTTPClient: c.visitor(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	for i := range 10 {
		want := bytes.Repeat([]byte{byte(i)}, 1+i*1000)
		if err := ws.Write(ctx, websocket.MessageBinary, want); err != nil {
			t.Fatal(err)
		}
		if _, b, err := ws.Read(ctx); err != nil || !bytes.Equal(b, want) {
			t.Fatalf("WebSocket: %d bytes, %v; want the %d that were sent", len(b), err, len(want))
		}
	}
}

// used returns the carrier that the agents of this server say they are on, as
// the server's list of sessions has it.
func (c *carried) used(t *testing.T) string {
	t.Helper()
	log, _ := c.process.log.read()
	i := strings.LastIndex(log, `"carrier":"`)
	if i < 0 {
		return ""
	}
	name, _, _ := strings.Cut(log[i+len(`"carrier":"`):], `"`)
	return name
}

// Every network gets an agent that finds its way by itself, and everything goes
// over it.
func TestAgentsFindTheirWay(t *testing.T) {
	t.Parallel()
	need(t, "go")
	d := startSSHD(t, "127.0.0.1")
	slots := make(chan struct{}, 3) // they measure time, and there are few CPUs
	for _, b := range betweens {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			c := startCarried(t, b, "auto", d)
			if got := c.used(t); !slices.Contains(b.carriers, got) {
				t.Errorf("the agent is on %q, and the network lets %v through", got, b.carriers)
			}
			c.converse(t)
			down, up := c.transfer(t, carriedSize())
			t.Logf("%s: %.0f MB/s down, %.0f MB/s up", c.used(t), down, up)
		})
	}
}

// The matrix of docs/carriers.md is what this prints.
func TestCarrierMatrix(t *testing.T) {
	if !long() {
		t.Skip("it takes minutes: ADIT_E2E_LONG=1 asks for it")
	}
	d := startSSHD(t, "127.0.0.1")
	var mu sync.Mutex
	table := "| between agent and server | carrier | down, MB/s | up, MB/s |\n|---|---|--:|--:|\n"
	for _, b := range betweens {
		for _, carrier := range []string{"websocket", "stream", "poll"} {
			if !slices.Contains(b.carriers, carrier) {
				table += fmt.Sprintf("| %s | %s | – | – |\n", b.name, carrier)
				continue
			}
			t.Run(b.name+"/"+carrier, func(t *testing.T) {
				c := startCarried(t, b, carrier, d)
				size := int64(100 << 20)
				if b.name == "300 ms away" {
					size = 10 << 20
				}
				down, up := c.transfer(t, size)
				mu.Lock()
				defer mu.Unlock()
				table += fmt.Sprintf("| %s | %s | %.0f | %.0f |\n", b.name, carrier, down, up)
			})
		}
	}
	fmt.Println(table)
}
