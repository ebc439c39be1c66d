package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWhclient(t *testing.T) {
	t.Parallel()
	s, port := startWebsocktunnel(t, []string{"URL_PREFIX=", "HOSTNAME=tunnel.test"})
	defer s.stop()
	asked := make(chan string, 10)
	status := http.StatusBadGateway
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Header.Get("Authorization")
		if status != 200 {
			w.WriteHeader(status)
			status = 200
			return
		}
		json.NewEncoder(w).Encode(map[string]string{"tunnelId": "demo", "token": tunnelToken(t, "demo", nil), "proxyUrl": "http://127.0.0.1:" + port})
	}))
	defer service.Close()
	_, target, _ := net.SplitHostPort(site(t))
	server := "http://127.0.0.1:" + port
	for name, tt := range map[string]struct {
		environ string
		args    []string
	}{
		"service":     {"X=y", []string{"--token-service=" + service.URL}},
		"environment": {"ADIT_TOKEN_SERVICE=" + service.URL, nil},
		"ready token": {"X=y", []string{"--tunnel-token=" + tunnelToken(t, "demo", nil), "--tunnel-id=demo", "--tunnel-server=" + server}},
	} {
		c := newCommand(t, tt.environ).start(t, append([]string{"whclient", "me", "access", target}, tt.args...)...)
		c.err.wait(t, `connected to proxy.*http://tunnel.test/demo`)
		if got := get(t, server+"/demo/"); got != "the site" {
			t.Errorf("%s: got %q", name, got)
		}
		if code := c.stop(); code != exitDone {
			t.Errorf("%s: exit code %d", name, code)
		}
	}
	if len(asked) != 3 {
		t.Errorf("the service was asked %d times, want thrice: it failed once", len(asked))
	}
	for range len(asked) {
		if header := <-asked; !strings.HasPrefix(header, `Hawk id="me", `) || strings.Contains(header, "access") {
			t.Errorf("the service was asked with %s", header)
		}
	}
	status = http.StatusForbidden
	for _, args := range [][]string{
		{"me", "access", target, "--token-service=" + service.URL}, {"me", "access"}, {"me", "access", "x"}, {"me", "access", "1", "--tunnel-id=x"},
	} {
		if code, _, errOut := call(t, nil, append([]string{"whclient"}, args...)...); code != exitFailed || strings.Contains(errOut, "access ") && !strings.Contains(errOut, "Usage") {
			t.Errorf("whclient %q: exit code %d, %q", args, code, errOut)
		}
	}
	if code, out, _ := call(t, nil, "whclient", "--ve"); code != exitDone || out != "Webhook Client 0.1\n" {
		t.Errorf("--version: %d, %q", code, out)
	}
}
