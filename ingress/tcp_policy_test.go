package ingress_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"adit/ingress"
	"adit/policy"
	"adit/tunnel/tunneltest"
)

func guardOf(t *testing.T, p policy.Policy) *policy.Guard {
	t.Helper()
	if err := p.CheckTCP(); err != nil {
		t.Fatal(err)
	}
	g, err := policy.NewGuard("mem", p)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// A visitor whom a policy keeps out is reset, and no stream is opened for it.
func TestTCPPolicy(t *testing.T) {
	t.Parallel()
	local := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, tt := range []struct {
		name           string
		server, tunnel *policy.Policy
		want           []bool // visitors in turn
	}{
		{"none", nil, nil, []bool{true}},
		{"allowed", nil, &policy.Policy{AllowIP: local}, []bool{true}},
		{"denied", nil, &policy.Policy{DenyIP: local}, []bool{false}},
		{"denied by the server", &policy.Policy{DenyIP: local}, &policy.Policy{AllowIP: local}, []bool{false}},
		{"denied by the tunnel", &policy.Policy{AllowIP: local}, &policy.Policy{DenyIP: local}, []bool{false}},
		{"rate", nil, &policy.Policy{Rate: policy.Rate{Count: 1, Per: time.Hour, Burst: 2}}, []bool{true, true, false}},
		{"rate of the server", &policy.Policy{TotalRate: policy.Rate{Count: 1, Per: time.Hour, Burst: 1}}, nil, []bool{true, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tun, agent := tunneltest.NewMemory("mem")
			t.Cleanup(func() { tun.Close() })
			var g *policy.Guard
			if tt.tunnel != nil {
				g = guardOf(t, *tt.tunnel)
			}
			d := newTCPDoor(t, ingress.TCPOptions{Router: routerFunc(func(context.Context, string) (ingress.Target, error) {
				return ingress.Target{Tunnel: tun, Policy: g}, nil
			})})
			if tt.server != nil {
				d.SetPolicy(guardOf(t, *tt.server))
			}
			var streams atomic.Int32
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := agent.Accept()
					if err != nil {
						return
					}
					streams.Add(1)
					io.WriteString(c, "hello")
					c.Close()
				}
			}()
			let := 0
			for i, want := range tt.want {
				var got []byte
				c, err := net.Dial("tcp", d.addr) // the reset may be that quick
				if err == nil {
					got, err = io.ReadAll(c)
					c.Close()
				}
				if in := string(got) == "hello" && err == nil; in != want || !in && err == nil {
					t.Errorf("visitor %d: got %q, %v; want it let in: %v", i+1, got, err, want)
				}
				if want {
					let++
				}
			}
			agent.Close()
			<-done
			if n := int(streams.Load()); n != let {
				t.Errorf("%d streams were opened, want %d", n, let)
			}
		})
	}
}
