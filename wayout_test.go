package adit_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"adit"
	"adit/adittest"
	"adit/internal/hostile"
)

func TestProxy(t *testing.T) {
	s := adittest.NewServer(t)
	login := func() hostile.Login {
		return func(got string) (bool, []string) { return got == "Negotiate dGlja2V0", []string{"Negotiate"} }
	}
	for _, tt := range []struct {
		name, user string
		login      func() hostile.Login
		want       []string // ways to log in, one for each request
	}{
		{"password", "me:secret@", hostile.Basic("me", "secret"), []string{"", " Basic"}},
		{"ticket", "", login, []string{"", " Negotiate"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := hostile.NewProxy(t, hostile.ProxyOptions{Login: tt.login})
			l, err := adit.Listen(t.Context(), adit.WithServer(s.URL()), adit.WithToken(s.Secret()), adit.WithID(tt.name),
				adit.WithProxy("http://"+tt.user+p.Addr), adit.WithCarrier("websocket"), adit.WithServerHost("tunnel.example.com"), adit.WithServerHeader(http.Header{"X-Env": {"test"}}),
				adit.WithProxyTicket(func(context.Context, string) ([]byte, error) { return []byte("ticket"), nil }))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var want []string
			for _, scheme := range tt.want {
				want = append(want, strings.TrimPrefix(strings.TrimPrefix(s.URL(), "ws://"), "http://")+scheme)
			}
			if got := p.Asked(); !slices.Equal(got, want) {
				t.Errorf("the proxy was asked for %q, want %q", got, want)
			}
		})
	}
}

func TestWrongProxy(t *testing.T) {
	for _, tt := range []struct{ proxy, want string }{
		{"ftp://me:adit_marked@proxy", `WithProxy: scheme "ftp"`},
		{"http://me:adit_marked@%zz", "WithProxy: malformed"},
	} {
		_, err := adit.Listen(t.Context(), adit.WithServer("wss://tunnel.example.com"), adit.WithToken("x"), adit.WithID("web"), adit.WithProxy(tt.proxy))
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "adit_marked") {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}
