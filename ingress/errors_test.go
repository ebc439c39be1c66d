package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"adit/internal/http1"
	"adit/policy"
	"adit/tunnel"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err    error
		code   string
		status int
	}{
		{http1.ErrBareLF, "bad-request", 400},
		{http1.ErrConnect, "method-not-allowed", 405},
		{http1.ErrTargetTooLong, "target-too-long", 414},
		{http1.ErrExpect, "expectation-failed", 417},
		{http1.ErrHeadTooLarge, "head-too-large", 431},
		{http1.ErrVersion, "http-version", 505},
		{&badBody{http1.ErrChunkSize}, "bad-request", 400},
		{&badResponse{http1.ErrHeadTooLarge}, "upstream-bad-response", 502},
		{errHeadTimeout, "request-timeout", 408},
		{errNotFound, "not-found", 404},
		{errDraining, "shutting-down", 503},
		{&policy.Denied{Code: policy.CodeAddress}, "address-not-allowed", 403},
		{&policy.Denied{Code: policy.CodeRate, RetryAfter: time.Second}, "rate-limited", 429},
		{&policy.Denied{Code: policy.CodeCertificate}, "certificate-required", 403},
		{&policy.Denied{Code: policy.CodeLogin, Challenge: "Basic"}, "login-required", 401},
		{&policy.Denied{Code: policy.CodeViewer, Challenge: "Bearer"}, "viewer-token-required", 401},
		{&policy.Denied{Code: policy.CodeViewerExpired}, "viewer-token-expired", 401},
		{&badBody{policy.TooLarge(5)}, "body-too-large", 413},
		{fmt.Errorf("route: %w", ErrNoRoute), "unknown-name", 404},
		{fmt.Errorf("route: %w", ErrOffline), "agent-offline", 503},
		{fmt.Errorf("route: %w", ErrQueueFull), "queue-full", 503},
		{&tunnel.RefusedError{Code: tunnel.RefuseInternal}, "agent-failed", 502},
		{&tunnel.RefusedError{Code: tunnel.RefuseUnknownService}, "unknown-service", 502},
		{fmt.Errorf("open: %w", &tunnel.RefusedError{Code: tunnel.RefuseUpstreamRefused}), "upstream-refused", 502},
		{&tunnel.RefusedError{Code: tunnel.RefuseUpstreamTimeout}, "upstream-timeout", 504},
		{&tunnel.RefusedError{Code: tunnel.RefuseForbidden}, "forbidden", 403},
		{&tunnel.RefusedError{Code: tunnel.RefuseBusy}, "busy", 503},
		{&tunnel.RefusedError{Code: tunnel.RefuseDraining}, "draining", 503},
		{&tunnel.RefusedError{Code: 999}, "agent-failed", 502},
		{&upstreamError{"read", &tunnel.ResetError{Code: tunnel.ResetInternal}}, "agent-failed", 502},
		{&upstreamError{"read", &tunnel.ResetError{Code: tunnel.ResetCancelled}}, "upstream-closed", 502},
		{&upstreamError{"read", &tunnel.ResetError{Code: tunnel.ResetUpstream}}, "upstream-closed", 502},
		{&upstreamError{"read", &tunnel.ResetError{Code: tunnel.ResetTimeout}}, "upstream-timeout", 504},
		{&upstreamError{"read", &tunnel.ResetError{Code: tunnel.ResetOverload}}, "busy", 503},
		{&upstreamError{"read", tunnel.ErrClosed}, "agent-lost", 502},
		{&upstreamError{"read", errors.New("broken")}, "upstream-closed", 502},
		{&upstreamError{"read", os.ErrDeadlineExceeded}, "upstream-timeout", 504},
		{context.DeadlineExceeded, "upstream-timeout", 504},
		{errors.ErrUnsupported, "unsupported", 502},
		{errors.New("anything"), "internal", 500},
	} {
		p := explain(tt.err)
		if p.code != tt.code || p.status != tt.status {
			t.Errorf("%v: %d %s, want %d %s", tt.err, p.status, p.code, tt.status, tt.code)
		}
	}
}

// TestCodesAreDocumented holds docs/errors.md to the code.
func TestCodesAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*problem{
		probBadRequest, probMethod, probReadTimeout, probTarget, probExpect, probHeadSize, probVersion,
		probUnknownName, probNotFound, probForbidden, probOffline, probQueueFull, probBusy, probDraining, probVisitors,
		probShuttingDown, probRefused, probService, probAgentFailed, probAgentLost, probClosed, probBadResponse,
		probUnsupported, probTimeout, probInternal, probVisitorLeft,
		probAddress, probCertificate, probLogin, probViewer, probViewerExpired, probRate, probBody,
	} {
		if want := fmt.Sprintf("| `%s` | %d |", p.code, p.status); !strings.Contains(string(doc), want) {
			t.Errorf("docs/errors.md has no row %q", want)
		}
	}
}

func TestErrorPages(t *testing.T) {
	t.Parallel()
	reason := "dial tcp 10.1.2.3:80: token s3cr3t"
	_, addr := startHTTP(t, HTTPOptions{Router: routerFunc(func(_ context.Context, key string) (Target, error) {
		switch key {
		case "away":
			return Target{}, fmt.Errorf("%s: %w", reason, ErrOffline)
		case "full":
			return Target{}, fmt.Errorf("%s: %w", reason, ErrQueueFull)
		case "broken":
			return Target{}, errors.New(reason)
		}
		return Target{}, ErrNoRoute
	})})
	for _, tt := range []struct {
		host, accept string
		status       int
		code         string
		retry, html  bool
	}{
		{"away", "text/html,application/xhtml+xml,*/*;q=0.8", 503, "agent-offline", true, true},
		{"away", "application/json", 503, "agent-offline", true, false},
		{"away", "*/*", 503, "agent-offline", true, false},
		{"full", "text/html;q=0.5, application/problem+json", 503, "queue-full", true, false},
		{"broken", "text/html;q=0", 500, "internal", false, false},
		{"nobody", "", 404, "unknown-name", false, false},
		{"nobody", "Text/HTML", 404, "unknown-name", false, true},
	} {
		c := dial(t, addr)
		c.send("GET /<script>alert(1)</script> HTTP/1.1\r\nHost: %s\r\nAccept: %s\r\n\r\n", tt.host, tt.accept)
		resp, body := c.response("GET")
		h := resp.Header
		if resp.StatusCode != tt.status || h.Get("Adit-Error") != tt.code || (h.Get("Retry-After") != "") != tt.retry || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", tt.host, resp.StatusCode, h)
		}
		if strings.Contains(body, "10.1.2.3") || strings.Contains(body, "s3cr3t") || strings.Contains(body, "<script>") {
			t.Errorf("%s: the page tells too much: %s", tt.host, body)
		}
		if html := strings.HasPrefix(body, "<!DOCTYPE html>"); html != tt.html || strings.Contains(h.Get("Content-Type"), "text/html") != html {
			t.Errorf("%s accepting %q: %s %.40q", tt.host, tt.accept, h.Get("Content-Type"), body)
		}
		if !tt.html {
			var got struct {
				Error struct{ Code, Message string }
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil || got.Error.Code != tt.code || got.Error.Message == "" {
				t.Errorf("%s: %q, %v", tt.host, body, err)
			}
		}
		c.send("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n") // the conn goes on
		if resp, _ := c.response("GET"); resp.StatusCode != 404 {
			t.Errorf("request after %s: %d", tt.code, resp.StatusCode)
		}
	}
}

func TestPageEscapes(t *testing.T) {
	t.Parallel()
	body, _ := probUnknownName.page("text/html", `<img src=x onerror="alert('1')">&`)
	for _, bad := range []string{"<img", `"alert`, "'1'"} {
		if strings.Contains(string(body), bad) {
			t.Errorf("page has %q unescaped:\n%s", bad, body)
		}
	}
}

func TestResponseTimeout(t *testing.T) {
	t.Parallel()
	release := make(chan bool)
	defer close(release)
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}, func(o *HTTPOptions) { o.ResponseTimeout = 1 })
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	if resp, _ := c.response("GET"); resp.StatusCode != 504 || resp.Header.Get("Adit-Error") != "upstream-timeout" {
		t.Errorf("got %d %s, want 504 upstream-timeout", resp.StatusCode, resp.Header.Get("Adit-Error"))
	}
}

func TestTunnelEndsDuringRequest(t *testing.T) {
	t.Parallel()
	addr, l := rawSite(t)
	c := dial(t, addr)
	c.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\n\r\nx")
	readUntil(t, acceptStream(t, l), "\r\n\r\nx")
	l.Close()
	if resp, _ := c.response("POST"); resp.StatusCode != 502 || resp.Header.Get("Adit-Error") != "agent-lost" {
		t.Errorf("got %d %s, want 502 agent-lost", resp.StatusCode, resp.Header.Get("Adit-Error"))
	}
}
