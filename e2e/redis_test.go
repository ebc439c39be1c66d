package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestRedisThroughTCPTunnel(t *testing.T) {
	t.Parallel()
	server, cli, bench := need(t, "redis-server"), need(t, "redis-cli"), need(t, "redis-benchmark")
	at := freePort(t)
	r := start(t, "redis", exec.Command(server, "--bind", "127.0.0.1", "--port", at, "--save", "", "--dir", t.TempDir()))
	waitAccepts(t, r, "127.0.0.1:"+at)
	_, _, port := startTCP(t, "127.0.0.1:"+at)

	eventually(t, "redis answers", 20*time.Second, func(ctx context.Context) error {
		out, err := try(ctx, 5*time.Second, cli, "-p", port, "PING")
		if err == nil && out != "PONG\n" {
			err = fmt.Errorf("got %q", out)
		}
		return err
	})
	if out := run(t, 20*time.Second, cli, "-p", port, "SET", "key", "value"); out != "OK\n" {
		t.Errorf("SET: got %q", out)
	}
	if out := run(t, 20*time.Second, cli, "-p", at, "GET", "key"); out != "value\n" {
		t.Errorf("GET at the upstream itself: got %q, want the value that was set through the tunnel", out)
	}
	// 50 connections with 16 commands under way on each
	out := run(t, time.Minute, bench, "-p", port, "-n", "50000", "-P", "16", "-q", "-t", "set,get")
	if strings.Count(out, "requests per second") != 2 || strings.Contains(out, "Error") {
		t.Errorf("redis-benchmark: got %q", out)
	}
}
