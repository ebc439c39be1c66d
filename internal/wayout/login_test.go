package wayout_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"adit/internal/hostile"
	"adit/internal/wayout"
)

// greeter is a server that speaks first.
func greeter(t *testing.T) *url.URL {
	return &url.URL{Scheme: "http", Host: serve(t, func(c net.Conn) { io.WriteString(c, "hello") })}
}

// ticket returns a way to log in with the token that Dialer.Negotiate gave.
func ticket(token string, others ...string) func() hostile.Login {
	return func() hostile.Login {
		return func(got string) (bool, []string) {
			return got == "Negotiate "+base64.StdEncoding.EncodeToString([]byte(token)), append([]string{"Negotiate"}, others...)
		}
	}
}

// TestLogin has what a proxy is shown, with each way to log in.
func TestLogin(t *testing.T) {
	t.Parallel()
	to := greeter(t)
	good := func(_ context.Context, host string) ([]byte, error) {
		if host != "127.0.0.1" {
			return nil, errors.New("for " + host)
		}
		return []byte("ticket"), nil
	}
	none := func(context.Context, string) ([]byte, error) { return nil, errors.New("there is no ticket") }
	const user = `CORP%5Cme:sec%20ret@`
	for _, tt := range []struct {
		name      string
		user      string
		login     func() hostile.Login
		once      bool // the proxy closes what it refuses
		schemes   []string
		eager     bool
		negotiate func(context.Context, string) ([]byte, error)
		want      []string    // schemes shown, one for each request
		kind      wayout.Kind // of the error; empty if there is none
		says      string
	}{
		{name: "NTLM", user: user, login: hostile.NTLM("NTLM", "CORP", "me", "sec ret", `Basic realm="x"`), want: []string{"", "NTLM", "NTLM"}},
		{name: "NTLM without a domain", user: "me:sec%20ret@", login: hostile.NTLM("NTLM", "", "me", "sec ret"), want: []string{"", "NTLM", "NTLM"}},
		{name: "NTLM by another name", user: user, login: hostile.NTLM("Negotiate", "CORP", "me", "sec ret"), want: []string{"", "Negotiate", "Negotiate"}},
		{name: "wrong password, and no weaker form of it", user: `CORP%5Cme:hidden@`, login: hostile.NTLM("NTLM", "CORP", "me", "sec ret", `Basic realm="x"`),
			want: []string{"", "NTLM", "NTLM"}, kind: wayout.LoginRefused, says: "NTLM, Basic"},
		{name: "nobody", login: hostile.NTLM("NTLM", "CORP", "me", "sec ret"), want: []string{""}, kind: wayout.LoginNeeded, says: "(it takes NTLM)"},
		{name: "connection cut between", user: user, login: hostile.NTLM("NTLM", "CORP", "me", "sec ret"), once: true,
			want: []string{"", "NTLM"}, kind: wayout.LoginRefused, says: "closes the connection"},
		{name: "NTLM is not allowed", user: user, login: hostile.NTLM("NTLM", "CORP", "me", "sec ret", `Basic realm="x"`), schemes: []string{"Basic"},
			want: []string{"", "Basic"}, kind: wayout.LoginRefused},
		{name: "Basic is not allowed", user: user, login: hostile.Basic(`CORP\me`, "sec ret"), schemes: []string{"Negotiate", "NTLM"},
			want: []string{""}, kind: wayout.LoginNeeded, says: "(it takes Basic)"},
		{name: "unasked", user: user, login: hostile.Basic(`CORP\me`, "sec ret"), eager: true, want: []string{"Basic"}},
		{name: "unasked, and wrong", user: `CORP%5Cme:hidden@`, login: hostile.Basic(`CORP\me`, "sec ret"), eager: true, want: []string{"Basic"}, kind: wayout.LoginRefused},
		{name: "unasked, and NTLM is asked for", user: user, login: hostile.NTLM("NTLM", "CORP", "me", "sec ret", `Basic realm="x"`), eager: true, want: []string{"Basic", "NTLM", "NTLM"}},
		{name: "unasked, and nobody", login: hostile.Basic(`CORP\me`, "sec ret"), eager: true, want: []string{""}, kind: wayout.LoginNeeded},
		{name: "ticket", login: ticket("ticket"), negotiate: good, want: []string{"", "Negotiate"}},
		{name: "ticket before a password", user: user, login: ticket("ticket", "NTLM", "Basic"), negotiate: good, want: []string{"", "Negotiate"}},
		{name: "ticket that is refused", login: ticket("other"), negotiate: good, want: []string{"", "Negotiate"}, kind: wayout.LoginRefused},
		{name: "no ticket", login: ticket("ticket"), negotiate: none, want: []string{""}, kind: wayout.LoginNeeded, says: "there is no ticket"},
		{name: "no ticket but a password", user: user, login: hostile.NTLM("NTLM", "CORP", "me", "sec ret", "Negotiate"), negotiate: none, want: []string{"", "NTLM", "NTLM"}},
		{name: "a ticket that is refused, and a password", user: user, login: hostile.NTLM("NTLM", "CORP", "me", "sec ret", "Negotiate"), negotiate: good, want: []string{"", "Negotiate", "NTLM", "NTLM"}},
		{name: "tickets are not allowed", login: ticket("ticket"), negotiate: good, schemes: []string{"Basic"}, want: []string{""}, kind: wayout.LoginNeeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := hostile.NewProxy(t, hostile.ProxyOptions{Login: tt.login, OneRequest: tt.once})
			d := wayout.Dialer{Proxy: via("http://" + tt.user + p.Addr), Timeout: patience, Schemes: tt.schemes, Eager: tt.eager, Negotiate: tt.negotiate}
			c, err := d.Dial(t.Context(), to)
			var want []string
			for _, scheme := range tt.want {
				want = append(want, strings.TrimSpace(to.Host+" "+scheme))
			}
			if got := p.Asked(); !slices.Equal(got, want) {
				t.Errorf("the proxy was asked for %q, want %q", got, want)
			}
			if tt.kind != "" {
				e, ok := errors.AsType[*wayout.Error](err)
				if !ok || e.Kind != tt.kind || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hidden") {
					t.Errorf("got %v, want %s and %q", err, tt.kind, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}
