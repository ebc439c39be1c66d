package forest_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"adit/dialect/forest"
	"adit/internal/hostile"
	"adit/internal/wayout"
)

// The agent reaches its server through a proxy if it is told to.
func TestAgentThroughProxy(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 16)
	p := hostile.NewProxy(t, hostile.ProxyOptions{Refuse: func(addr string) int {
		select {
		case asked <- addr:
		default:
		}
		return http.StatusForbidden
	}})
	a, err := forest.NewAgent(forest.AgentConfig{ClientIdentifier: "home", ServerAddr: "tunnel.example.com:8443"}, forest.AgentOptions{
		Out: &wayout.Dialer{Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("http://" + p.Addr) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	if got := <-asked; got != "tunnel.example.com:8443" {
		t.Errorf("the proxy was asked for %s", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
