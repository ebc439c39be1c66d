package metrics_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"adit/accesslog"
	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/ingress"
	"adit/metrics"
	"adit/server"
	"adit/session"
	"adit/tracing"
	"adit/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

type fakeAgent struct{}

func (fakeAgent) AgentStats() metrics.AgentStats {
	return metrics.AgentStats{Connected: 1, Tunnels: 3, RefusedTunnels: 1, Sent: 7, RoundTrip: time.Second,
		Carriers: map[string]int{"websocket": 1, "stream": 0, "poll": 0, "quic": 0}}
}

// A fixture is a server with an agent and its metrics.
type fixture struct {
	*server.Server
	reg    *prometheus.Registry
	secret auth.Secret
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{secret: auth.NewSecret()}
	a, err := auth.NewAuthenticator(auth.Options{Secrets: []auth.Secret{f.secret}})
	if err != nil {
		t.Fatal(err)
	}
	budget := session.NewBudget(64 << 20)
	f.Server, err = server.New(server.Options{
		Listen:   "127.0.0.1:0",
		Domain:   "example.com",
		Hold:     -1,
		TCPPorts: []ingress.PortRange{{First: 27100, Last: 27199}},
		TLS:      &server.TLSOptions{Listen: "127.0.0.1:0", DevDir: t.TempDir()},
		Dialects: []dialect.Dialect{native.New(native.Options{Session: session.Options{Budget: budget}})},
		Auth:     a,
	})
	if err != nil {
		t.Fatal(err)
	}
	access, err := accesslog.Open(accesslog.Options{Writer: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { access.Close() })
	tracer, err := tracing.New(t.Context(), tracing.Options{Endpoint: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tracer.Close(context.Background()) })
	f.reg = metrics.Registry("1.2.3", metrics.NewServer(f, budget), metrics.NewAccessLog(access), metrics.NewTracing(tracer), metrics.NewAgent(fakeAgent{}))
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return f
}

// agent runs an agent with an HTTP tunnel to h and a TCP tunnel to the same,
// and returns the public TCP port.
func (f *fixture) agent(t *testing.T, id tunnel.ID, h http.HandlerFunc) uint16 {
	t.Helper()
	up := httptest.NewServer(h)
	t.Cleanup(up.Close)
	upstream, err := agent.ParseUpstream(up.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan agent.State, 100)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() {
		ran <- agent.Run(ctx, agent.Options{
			Server:  "ws://" + f.Addr().String(),
			Token:   func() (string, error) { return f.secret.Reveal(), nil },
			Tunnels: []agent.Tunnel{{ID: id, Kind: dialect.HTTP, Upstream: upstream}, {ID: id, Kind: dialect.TCP, Upstream: upstream}},
			OnState: func(s agent.State) {
				if s.Phase == agent.Connected {
					connected <- s
				}
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ran
	})
	select {
	case s := <-connected:
		return s.Bound[1].Port
	case <-time.After(patience):
		t.Fatal("the agent does not connect")
		return 0
	}
}

// get asks the server for a page of host, on a conn of its own.
func (f *fixture) get(t *testing.T, host, path string, fields ...string) int {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, f.Addr().String())
	}}
	r, err := http.NewRequest("GET", "http://placeholder"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// gather returns what the registry has, by name.
func gather(t *testing.T, reg *prometheus.Registry) map[string]*dto.MetricFamily {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]*dto.MetricFamily)
	for _, f := range all {
		byName[f.GetName()] = f
	}
	return byName
}

// value returns a metric's value; labels are names and values in turn.
func (f *fixture) value(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	family := gather(t, f.reg)[name]
	for _, m := range family.GetMetric() {
		has := make(map[string]string)
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		match := true
		for i := 0; i+1 < len(labels); i += 2 {
			match = match && has[labels[i]] == labels[i+1]
		}
		switch {
		case !match:
		case m.GetCounter() != nil:
			return m.GetCounter().GetValue()
		case m.GetGauge() != nil:
			return m.GetGauge().GetValue()
		case m.GetHistogram() != nil:
			return float64(m.GetHistogram().GetSampleCount())
		}
	}
	t.Errorf("there is no %s with %v", name, labels)
	return -1
}

// becomes waits until a metric has a value.
func (f *fixture) becomes(t *testing.T, want float64, name string, labels ...string) {
	t.Helper()
	limit := time.Now().Add(patience)
	for got := f.value(t, name, labels...); got != want; got = f.value(t, name, labels...) {
		if time.Now().After(limit) {
			t.Fatalf("%s %v is %v after %v, want %v", name, labels, got, patience, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
