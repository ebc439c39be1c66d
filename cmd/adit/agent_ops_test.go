package main

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/admin"
	"adit/auth"
)

// adminGet returns what is at a path of an admin address.
func adminGet(t *testing.T, url, token string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestAdminOfAgent(t *testing.T) {
	t.Parallel()
	server, url := startServer(t)
	web := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", site(t), "--id", "web", "--server", url, "--admin", "127.0.0.1:0", "--log-level", "info")
	at := web.out.wait(t, `^(http://\S+/web/) +-> `)
	get(t, at)
	base := adminURL(t, web)
	token, err := auth.LoadSecret(filepath.Join(web.dataDir(), "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	if status, body := adminGet(t, base+"/readyz", ""); status != 200 {
		t.Errorf("readyz: got %d %q", status, body)
	}
	if status, _ := adminGet(t, base+"/metrics", testSecret); status != 401 {
		t.Errorf("metrics with the agent's credential: got %d, want 401", status)
	}
	status, body := adminGet(t, base+"/metrics", token.Reveal())
	if status != 200 || !strings.Contains(body, "adit_agent_sessions{state=\"available\"} 1") || !strings.Contains(body, "adit_agent_streams_total 1") {
		t.Errorf("metrics: got %d %q", status, body)
	}
	_, body = adminGet(t, base+"/api/v1/agent", token.Reveal())
	var st admin.AgentStatus
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatal(err)
	}
	if st.Phase != "connected" || st.Server != url || len(st.Tunnels) != 1 || st.Tunnels[0].ID != "web" || len(st.Tunnels[0].URLs) == 0 || st.Tunnels[0].URLs[0] != at {
		t.Errorf("got %+v", st)
	}

	server.stop()
	limit := time.Now().Add(patience)
	for status := 200; status == 200; {
		if status, body = adminGet(t, base+"/readyz", ""); time.Now().After(limit) {
			t.Fatalf("readyz without a server: got %d %q", status, body)
		}
	}
	if body != "not connected\n" {
		t.Errorf("readyz without a server: got %q", body)
	}
}
