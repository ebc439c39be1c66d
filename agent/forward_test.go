package agent_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/tunnel"
)

// forwarding starts a server that forwards to upstream, whose carriers go
// through way, and an agent without tunnels.
func forwarding(t *testing.T, upstream string) (a *agent.Agent, target tunnel.Target, f *fixture) {
	t.Helper()
	r, err := auth.ParseForwardRule(upstream)
	if err != nil {
		t.Fatal(err)
	}
	f = newFixture(t)
	f.forward = []auth.ForwardRule{r}
	f.stop()
	f.start()
	opts := f.options()
	opts.Forwards = true
	if a, err = agent.New(opts); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if _, err := a.OpenTarget(context.Background(), target); err == nil {
			t.Error("a stream was opened after Run")
		}
	})
	return a, tunnel.Target{Network: tunnel.TCP, Host: "127.0.0.1", Port: r.Ports.First}, f
}

func TestOpenTargetOutlivesCarrier(t *testing.T) {
	t.Parallel()
	a, target, f := forwarding(t, echoUpstream(t))
	c, err := a.OpenTarget(t.Context(), target) // before the agent is connected
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	for range 3 {
		io.WriteString(c, "hello")
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
			t.Fatalf("got %q, %v, want hello", got, err)
		}
		f.cut()
	}
	other, err := a.OpenTarget(t.Context(), target) // while it is away
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
}

func TestOpenTargetSaysWhyNot(t *testing.T) {
	t.Parallel()
	a, target, _ := forwarding(t, echoUpstream(t))
	target.Port--
	_, err := a.OpenTarget(t.Context(), target)
	if re, ok := errors.AsType[*tunnel.RefusedError](err); !ok || re.Code != tunnel.RefuseForbidden {
		t.Errorf("got %v, want it forbidden", err)
	}
	if _, err := a.OpenTarget(t.Context(), tunnel.Target{}); err == nil {
		t.Error("an empty target was opened")
	}
}

// An agent that the server turns away does not keep anybody waiting.
func TestOpenTargetWhenRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	opts := f.options()
	opts.Token = func() (string, error) { return "not the secret of this server", nil }
	a := opener(t, opts)
	begin := time.Now()
	_, err := a.OpenTarget(t.Context(), tunnel.Target{Network: tunnel.TCP, Host: "a", Port: 1})
	if r, ok := native.RefusalOf(err); !ok || r.Code != string(auth.InvalidCredential) {
		t.Errorf("got %v, want an invalid credential", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// What stands in for a server that is being restarted, such as a load balancer,
// has not turned the agent away.
func TestOpenTargetWaitsWhileServerIsAway(t *testing.T) {
	t.Parallel()
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	t.Cleanup(away.Close)
	opts := newFixture(t).options()
	opts.Server, opts.DialContext = "ws"+strings.TrimPrefix(away.URL, "http"), nil
	failed := make(chan struct{}, 1)
	opts.OnState = func(s agent.State) {
		if s.Err != nil {
			select {
			case failed <- struct{}{}:
			default:
			}
		}
	}
	a := opener(t, opts)
	<-failed
	const patience = 300 * time.Millisecond
	opening, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	begin := time.Now()
	_, err := a.OpenTarget(opening, tunnel.Target{Network: tunnel.TCP, Host: "a", Port: 1})
	if took := time.Since(begin); err == nil || took < patience {
		t.Errorf("got %v after %s, want that it waits for the server", err, took)
	}
}

// Two agents meet at the server, which neither can be reached by.
func TestForwardMeetsService(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, err := auth.ParseForwardRule("@office/echo")
	if err != nil {
		t.Fatal(err)
	}
	f.forward = []auth.ForwardRule{r}
	f.stop()
	f.start()
	serving := run(t, f.options(agent.Tunnel{ID: "office", Kind: dialect.Service, Name: "echo", Upstream: upstream(t, echoUpstream(t))}))
	if got := serving.until(agent.Connected).Bound[0].URLs; strings.Join(got, " ") != "@office/echo" {
		t.Errorf("got the addresses %q, want @office/echo", got)
	}
	a := opener(t, f.options())
	c, err := a.OpenTarget(t.Context(), tunnel.Target{Network: tunnel.Agent, Host: "office", Service: "echo"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "hello")
	if hc, ok := c.(tunnel.HalfCloser); !ok || hc.CloseWrite() != nil {
		t.Error("the stream has no half-close")
	}
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v, want hello and the end", got, err)
	}
}

// opener runs an agent that opens streams to targets, until the test ends.
func opener(t *testing.T, opts agent.Options) *agent.Agent {
	t.Helper()
	opts.Forwards = true
	a, err := agent.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return a
}
