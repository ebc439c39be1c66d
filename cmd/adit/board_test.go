package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"adit/agent"
	"adit/carrier"
	"adit/dialect"
	"adit/internal/screen"
)

func parseUpstream(t *testing.T, s string) *agent.Upstream {
	t.Helper()
	u, err := agent.ParseUpstream(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestBoardStates(t *testing.T) {
	t.Parallel()
	b := newBoard()
	b.server = "wss://tunnel.example.com"
	up := parseUpstream(t, "3000")
	tunnels := []agent.Tunnel{{ID: "web", Kind: dialect.HTTP, Upstream: up}, {ID: "api", Kind: dialect.HTTP, Upstream: up}}
	var also []agent.Phase
	opts := agent.Options{Tunnels: tunnels, OnState: func(s agent.State) { also = append(also, s.Phase) }}
	woken := 0
	b.wake = func() { woken++ }
	b.join(&opts, true)

	bound := []dialect.Bound{{URLs: []string{"https://web/"}}, {}}
	refused := &dialect.BindError{Code: dialect.BindTaken, Reason: "taken"}
	lost := fmt.Errorf("lost: %w", syscall.ECONNREFUSED)
	for i, tt := range []struct {
		state  agent.State
		phase  screen.Phase
		reason string
		retry  bool
		urls   int
		again  int
	}{
		{agent.State{Phase: agent.Connecting}, screen.Connecting, "", false, 0, 0},
		{agent.State{Phase: agent.Reconnecting, Err: lost, Wait: time.Second}, screen.Waiting, "connection refused", true, 0, 0},
		{agent.State{Phase: agent.Connected, Tunnels: tunnels, Bound: bound, Errs: []error{nil, refused}}, screen.Connected, "", false, 1, 0},
		{agent.State{Phase: agent.Reconnecting, Err: lost}, screen.Reconnecting, "connection refused", false, 1, 0},
		{agent.State{Phase: agent.Connected, Tunnels: tunnels, Bound: bound, Errs: []error{nil, refused}}, screen.Connected, "", false, 1, 1},
		{agent.State{Phase: agent.Refused, Err: refused, Wait: time.Minute}, screen.Refused, "taken (choose another --id)", true, 1, 1},
	} {
		opts.OnState(tt.state)
		v := b.view()
		if v.Phase != tt.phase || v.Reason != tt.reason || v.Retry.IsZero() == tt.retry || len(v.Tunnels[0].URLs) != tt.urls || v.Reconnects != tt.again || v.Server != b.server {
			t.Errorf("state %d: got %+v, want %+v", i, v, tt)
		}
		if tt.urls > 0 && v.Tunnels[1].Problem != "refused: taken (choose another --id)" {
			t.Errorf("state %d: got problem %q of the second tunnel", i, v.Tunnels[1].Problem)
		}
	}
	if len(also) != 6 || woken < 6 {
		t.Errorf("others were told %d times and the screen %d times, want 6", len(also), woken)
	}
	b.end(screen.Stopping)
	if v := b.view(); v.Phase != screen.Stopping || v.Reason != "" {
		t.Errorf("at the end: got %s, %q", v.Phase, v.Reason)
	}
}

// TestBoardShowsTheWorst has two agents: what a person has to know of is shown.
func TestBoardShowsTheWorst(t *testing.T) {
	t.Parallel()
	b := newBoard()
	var agents [2]agent.Options
	var leave [2]func()
	for i := range agents {
		agents[i].Tunnels = []agent.Tunnel{{ID: "web", Upstream: parseUpstream(t, "80")}}
		leave[i] = b.join(&agents[i], false)
		if agents[i].OnRequest != nil {
			t.Error("requests are looked at, though nobody asked")
		}
	}
	agents[0].OnState(agent.State{Phase: agent.Connected, Tunnels: agents[0].Tunnels})
	agents[1].OnState(agent.State{Phase: agent.Refused, Err: errors.New("no")})
	if v := b.view(); v.Phase != screen.Refused || v.Reason != "no" || len(v.Tunnels) != 2 {
		t.Errorf("got %+v, want refused, and both tunnels", v)
	}
	leave[1]()
	if v := b.view(); v.Phase != screen.Connected || len(v.Tunnels) != 1 {
		t.Errorf("got %+v, want the one that is left", v)
	}
}

func TestBoardRequests(t *testing.T) {
	t.Parallel()
	b := newBoard()
	opts := agent.Options{}
	b.join(&opts, true)
	for i := range uint64(60) {
		opts.OnRequest(agent.Request{ID: i, Method: "GET", Target: fmt.Sprint("/", i)})
	}
	opts.OnRequest(agent.Request{ID: 58, Target: "/58", Status: 200, Done: true})
	opts.OnRequest(agent.Request{ID: 3, Target: "/3", Status: 200, Done: true}) // has gone out of the list
	v := b.view()
	if len(v.Requests) != keptRequests || v.Requested != 60 || v.Requests[0].Target != "/10" || v.Requests[49].Done || !v.Requests[48].Done {
		t.Errorf("got %d requests of %d, from %+v", len(v.Requests), v.Requested, v.Requests)
	}

	up := parseUpstream(t, "22")
	visitor := netip.MustParseAddrPort("203.0.113.9:4711")
	ssh := agent.Stream{ID: 58, Tunnel: "ssh", Kind: dialect.TCP, Upstream: up, Visitor: visitor}
	opts.OnStream(ssh)
	v = b.view()
	if last := v.Requests[49]; !last.Conn || last.Method != "TCP" || last.Target != visitor.String() || v.Streams != (screen.Streams{Open: 1, Total: 1}) {
		t.Errorf("got %+v and %+v, want the connection", last, v.Streams)
	}
	ssh.Done, ssh.Sent, ssh.Err = true, 5, errors.New("cut")
	opts.OnStream(ssh)
	v = b.view()
	if last := v.Requests[49]; !last.Done || !last.Broken || last.Sent != 5 || v.Streams != (screen.Streams{Total: 1}) {
		t.Errorf("got %+v and %+v, want that it was cut", last, v.Streams)
	}
	opts.OnStream(agent.Stream{ID: 61, Kind: dialect.TCP, Upstream: up, Done: true, Refused: true, Err: syscall.ECONNREFUSED})
	if h := b.health[up]; h.state != screen.Down || h.problem != "connection refused" || b.view().Streams.Total != 1 {
		t.Errorf("got %+v, want that the upstream is down", h)
	}
}

// TestProbe sees an upstream come and go without a visitor, and leaves TCP
// upstreams alone.
func TestProbe(t *testing.T) {
	t.Parallel()
	ts := httptest.NewServer(http.NotFoundHandler())
	defer ts.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	web, raw := parseUpstream(t, ts.URL), parseUpstream(t, ln.Addr().String())
	inside := agent.HandlerUpstream("files", http.NotFoundHandler())
	b := newBoard()
	opts := agent.Options{Tunnels: []agent.Tunnel{{ID: "web", Kind: dialect.HTTP, Upstream: web}, {ID: "raw", Kind: dialect.TCP, Upstream: raw}, {ID: "files", Kind: dialect.HTTP, Upstream: inside}}}
	b.join(&opts, false)
	opts.OnStream(agent.Stream{ID: 9, Kind: dialect.HTTP, Upstream: inside})
	if h := b.view().Tunnels[2].Health; h != screen.Unknown {
		t.Errorf("a part of this program is said to answer or not: %v", h)
	}
	if got := b.unproven(); !slices.Equal(got, []*agent.Upstream{web}) {
		t.Errorf("probes %v, want the HTTP upstream alone", got)
	}
	b.probeOne(t.Context(), web)
	if h := b.health[web]; h.state != screen.Up || len(b.unproven()) != 0 {
		t.Errorf("got %+v, want up and nothing to ask", h)
	}
	opts.OnStream(agent.Stream{ID: 1, Kind: dialect.HTTP, Upstream: web, Reached: true})
	opts.OnStream(agent.Stream{ID: 1, Kind: dialect.HTTP, Upstream: web, Reached: true, Done: true})
	if len(b.unproven()) != 1 {
		t.Error("it is not asked again after a connection has ended")
	}
	ts.Close()
	b.probeOne(t.Context(), web)
	if h := b.health[web]; h.state != screen.Down || h.problem != "connection refused" || len(b.unproven()) != 1 {
		t.Errorf("got %+v, want down", h)
	}
}

func TestBoardLog(t *testing.T) {
	t.Parallel()
	b := newBoard()
	log := slog.New(newBoardHandler(b, slog.LevelWarn))
	log.Info("not shown")
	log.Warn("not connected", "err", "the state says so")
	for range 3 {
		log.With("service", "web").WithGroup("g").Warn("something", "n", 1)
	}
	log.Error("worse")
	var got []string
	for _, l := range b.view().Logs {
		got = append(got, fmt.Sprint(l.Level, " ", l.Count, " ", l.Text))
	}
	if want := []string{"warn 3 something service=web g.n=1", "error 1 worse"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for i := range 30 {
		log.Error(fmt.Sprint("message ", i))
	}
	if v := b.view(); len(v.Logs) != keptLogs {
		t.Errorf("%d messages are kept, want %d", len(v.Logs), keptLogs)
	}
}

// TestScreenIsForTerminals says who gets a screen.
func TestScreenIsForTerminals(t *testing.T) {
	t.Parallel()
	tty := os.Stdin // it is not touched
	for name, tt := range map[string]struct {
		environ []string
		mode    string
		level   string
		format  string
		console bool
		want    bool
	}{
		"terminal":                        {environ: []string{"TERM=xterm"}, console: true, want: true},
		"off":                             {environ: []string{"TERM=xterm"}, mode: "off"},
		"dumb terminal":                   {environ: []string{"TERM=dumb"}},
		"unknown terminal":                {},
		"logs on the terminal":            {environ: []string{"TERM=xterm"}, console: true, level: "info"},
		"logs in JSON on it":              {environ: []string{"TERM=xterm"}, console: true, format: "json"},
		"logs elsewhere":                  {environ: []string{"TERM=xterm"}, level: "debug", format: "json", want: true},
		"only worse logs on the terminal": {environ: []string{"TERM=xterm"}, console: true, level: "error", want: true},
	} {
		p := program{environ: tt.environ, terminal: tty, console: tt.console, errOut: &output{}}
		sf, lf := screenFlags{mode: "auto"}, logFlags{level: tt.level, format: "auto"}
		if tt.mode != "" {
			sf.mode = tt.mode
		}
		if tt.format != "" {
			lf.format = tt.format
		}
		d, err := p.newDisplay(sf, lf)
		if err != nil || d.onScreen != tt.want {
			t.Errorf("%s: screen %v, %v; want %v", name, d != nil && d.onScreen, err, tt.want)
		}
	}
	p := program{environ: []string{"TERM=xterm"}}
	if d, err := p.newDisplay(screenFlags{mode: "auto"}, logFlags{format: "auto"}); err != nil || d.onScreen {
		t.Errorf("without a terminal: %v, want no screen", err)
	}
	if _, err := p.newDisplay(screenFlags{mode: "on"}, logFlags{format: "auto"}); err == nil || !strings.Contains(err.Error(), `--screen "on": auto and off are allowed`) {
		t.Errorf("--screen on: got %v", err)
	}
}

func TestUnicode(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]bool{
		"": false, "LANG=C": false, "LANG=en_US.UTF-8": true, "LANG=C.utf8": true, "LANG=de_DE.ISO-8859-1": false,
		"LC_ALL=C LANG=en_US.UTF-8": false, "LC_ALL= LC_CTYPE=C.UTF-8 LANG=C": true,
	} {
		p := program{environ: strings.Fields(env)}
		if got := p.unicode(); got != want {
			t.Errorf("%q: got %v, want %v", env, got, want)
		}
	}
}

func TestReasonOfForbidden(t *testing.T) {
	t.Parallel()
	const no = "the credential does not allow the id \"b\""
	if got, want := reason(&carrier.StatusError{StatusCode: 403, Code: "forbidden", Body: no}), no+" (adit token inspect says what a token allows)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	const port = "port 1: this server gives out the TCP ports 2000"
	if got := reason(&dialect.BindError{Code: dialect.BindForbidden, Reason: port}); got != port {
		t.Errorf("got %q, want %q", got, port)
	}
}
