package adit_test

import (
	"context"
	"strings"
	"testing"

	"adit"
	"adit/adittest"
	"adit/policy"
)

func TestWrongOptions(t *testing.T) {
	good := adit.Options(adit.WithServer("wss://tunnel.example.com"), adit.WithToken("adit_marked"), adit.WithID("web"))
	for _, tt := range []struct {
		name string
		opt  adit.Option
		want []string // in the error, all of them
	}{
		{"none", adit.Options(adit.WithServer(""), adit.WithTokenFunc(nil), adit.WithID("")), []string{"WithServer", "ADIT_SERVER", "WithToken", "ADIT_TOKEN", "WithID"}},
		{"scheme", adit.WithServer("tcp://tunnel.example.com"), []string{`"tcp://tunnel.example.com"`, "wss://"}},
		{"no scheme", adit.WithServer("tunnel.example.com"), []string{`"tunnel.example.com"`, "wss://"}},
		{"password", adit.WithServer("wss://me:adit_marked@tunnel.example.com"), []string{"user or password", "WithToken"}},
		{"query", adit.WithServer("wss://tunnel.example.com?token=adit_marked"), []string{"'?'"}},
		{"malformed", adit.WithServer("wss://tunnel.example.com:adit_marked"), []string{"malformed"}},
		{"ID", adit.WithID("Web"), []string{"WithID", `"Web"`, "a-z"}},
		{"carrier", adit.WithCarrier("pigeon"), []string{"WithCarrier", `"pigeon"`, "websocket"}},
		{"instance", adit.WithInstance(strings.Repeat("x", 129)), []string{"WithInstance", "129", "128"}},
		{"connections", adit.WithConnections(17), []string{"WithConnections", "17", "16"}},
		{"negative connections", adit.WithConnections(-1), []string{"WithConnections", "-1"}},
		{"port", adit.WithTCP(65536), []string{"WithTCP", "65536", "65535"}},
		{"negative port", adit.WithTCP(-1), []string{"WithTCP", "-1"}},
		{"two kinds", adit.Options(adit.WithTCP(0), adit.WithTLS("a.example.com")), []string{"WithTCP, WithTLS"}},
		{"hostname of a port", adit.Options(adit.WithTCP(0), adit.WithHostname("a.example.com")), []string{"WithHostname"}},
		{"hostname", adit.WithHostname("a_b.example.com"), []string{"WithHostname", `"a_b.example.com"`}},
		{"HTTP/2 of a port", adit.Options(adit.WithTCP(0), adit.WithHTTP2()), []string{"WithHTTP2", "WithTCP"}},
		{"policy without anybody", adit.WithPolicy(policy.Policy{BasicAuth: []policy.Login{}}), []string{"WithPolicy", "basic_auth"}},
		{"policy of a port", adit.Options(adit.WithTCP(0), adit.WithPolicy(policy.Policy{MaxBody: 1})), []string{"WithPolicy", "max_body"}},
		{"backlog", adit.WithBacklog(-1), []string{"WithBacklog", "-1"}},
		{"several", adit.Options(adit.WithID("-"), adit.WithTCP(-1), adit.WithBacklog(-1)), []string{"WithID", "WithTCP", "WithBacklog"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("ADIT_SERVER", "")
			t.Setenv("ADIT_TOKEN", "")
			_, err := adit.Listen(t.Context(), good, tt.opt, nil)
			if err == nil {
				t.Fatal("Listen succeeded")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Listen: %v, want something about %s", err, want)
				}
			}
			if strings.Contains(err.Error(), "adit_marked") {
				t.Errorf("the error has the credential in it: %v", err)
			}
		})
	}
	for _, tt := range []struct {
		name, upstream string
		opt            adit.Option
		want           []string
	}{
		{"upstream", "ftp://localhost", nil, []string{"ftp"}},
		{"upstream and ID", "0", adit.WithID(""), []string{"port", "WithID"}},
		{"backlog", "3000", adit.WithBacklog(1), []string{"WithBacklog"}},
	} {
		t.Run("Forward "+tt.name, func(t *testing.T) {
			_, err := adit.Forward(t.Context(), tt.upstream, good, tt.opt)
			if err == nil {
				t.Fatal("Forward succeeded")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Forward: %v, want something about %s", err, want)
				}
			}
		})
	}
}

// Without options for them the server and the credential are the environment's.
func TestEnvironment(t *testing.T) {
	srv := adittest.NewServer(t)
	t.Setenv("ADIT_SERVER", srv.URL())
	t.Setenv("ADIT_TOKEN", srv.Secret()+"\n")
	l, err := adit.Listen(briefly(t), adit.WithID("web"))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, hello)
	if status, _, _ := get(t, srv, l.URL()); status != 200 {
		t.Errorf("GET: %d, want 200", status)
	}
	if err := l.Shutdown(cancelled()); err != nil && err != context.Canceled {
		t.Errorf("Shutdown: %v", err)
	}

	// Options go before it.
	_, err = adit.Listen(briefly(t), adit.WithID("web"), adit.WithToken("nonsense"))
	wantRefused(t, err, "invalid-credential")
}

// cancelled returns a context that has ended.
func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
