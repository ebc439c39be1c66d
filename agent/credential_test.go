package agent_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
)

func TestExpiry(t *testing.T) {
	t.Parallel()
	token := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".x"
	}
	for _, tt := range []struct {
		token string
		want  int64 // 0: it does not say
	}{
		{token(`{"exp":1798761600}`), 1798761600},
		{token(`{"exp":1798761600.9}`), 1798761600},
		{token(`{"exp":"1798761600"}`), 0},
		{token(`{"exp":-1}`), 0},
		{token(`{"exp":1e300}`), 0},
		{token(`{}`), 0},
		{token(`[]`), 0},
		{"adit_token_x_y", 0},
		{"a.!.b", 0},
		{"a.b", 0},
		{"", 0},
	} {
		got, ok := agent.Expiry(tt.token)
		if ok != (tt.want != 0) || ok && got.Unix() != tt.want {
			t.Errorf("Expiry(%q): got %v, %v, want %d", tt.token, got, ok, tt.want)
		}
	}
}

func TestRefreshAt(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for life, want := range map[time.Duration]time.Duration{
		24 * time.Hour:   24*time.Hour - 5*time.Minute,
		10 * time.Minute: 8 * time.Minute,
		10 * time.Second: 8 * time.Second,
		3 * time.Second:  2 * time.Second,
		-time.Minute:     -time.Minute - time.Second,
	} {
		if got := agent.RefreshAt(now, now.Add(life)).Sub(now); got != want {
			t.Errorf("a token for %v: got %v, want %v", life, got, want)
		}
	}
}

// onceConnected fails the test if the agent says something else than that it
// connected once.
func onceConnected(t *testing.T, r *running) {
	t.Helper()
	for {
		select {
		case s := <-r.states:
			t.Errorf("the agent said %+v, want no word: the session goes on", s)
		default:
			return
		}
	}
}

// TestCredentialIsRenewed lets a session live on many short tokens, one after
// the other, while a stream goes on.
func TestCredentialIsRenewed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	opts := f.options(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))})
	scope := auth.Scope{IDs: []string{"echo"}, Ports: []auth.PortRange{{First: 1, Last: 65535}}}
	asked := make(chan struct{}, 100)
	opts.Token = func() (string, error) {
		asked <- struct{}{}
		return f.token(3*time.Second-30*time.Second, scope), nil // the server allows for 30 s between clocks
	}
	r := run(t, opts)
	s := r.until(agent.Connected)
	c := f.visit(s.Bound[0].Port)
	limit := time.After(patience)
	for n := range 4 { // the first has ended before the fourth is asked for
		select {
		case <-asked:
			echo(t, c, fmt.Sprintf("on token %d", n+1))
		case <-limit:
			t.Fatalf("the credential was asked for %d times within %v, want 4", n, patience)
		}
	}
	onceConnected(t, r)
}

// TestNextToken pushes a credential onto a session, after one that is no good.
func TestNextToken(t *testing.T) {
	t.Parallel()
	type next struct {
		token string
		err   error
	}
	for name, bad := range map[string]next{
		"error":         {"", errors.New("not to be had")},
		"refused token": {"nonsense, which nobody accepts", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			opts := f.options(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))})
			scope := auth.Scope{IDs: []string{"echo"}, Ports: []auth.PortRange{{First: 1, Last: 65535}}}
			const life = 5 * time.Second // long enough for a pause after a failure
			began := time.Now()
			first := f.token(life-30*time.Second, scope)
			good := f.token(time.Hour, scope)
			opts.Token = func() (string, error) { return first, nil }
			steps, lasts := make(chan next, 2), make(chan string, 100)
			steps <- bad
			steps <- next{good, nil}
			opts.NextToken = func(ctx context.Context, last string) (string, error) {
				lasts <- last
				select {
				case n := <-steps:
					return n.token, n.err
				case <-ctx.Done():
					return "", ctx.Err()
				}
			}
			r := run(t, opts)
			s := r.until(agent.Connected)
			c := f.visit(s.Bound[0].Port)
			for _, want := range []string{first, first, good} {
				select {
				case last := <-lasts:
					if last != want {
						t.Error("asked for what follows another token than the one that the session lives on")
					}
				case <-time.After(patience):
					t.Fatalf("not asked for another token after %v", patience)
				}
			}
			select { // the first token ends
			case s := <-r.states:
				t.Errorf("the agent said %+v, want no word: the session goes on", s)
			case <-time.After(time.Until(began.Add(life + time.Second))):
			}
			echo(t, c, "still there")
			onceConnected(t, r)
		})
	}
}

// TestNextCertificate gives a session a new carrier while it has one.
func TestNextCertificate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	opts := f.options(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))})
	renew := make(chan struct{})
	opts.NextCertificate = func(ctx context.Context) error {
		select {
		case <-renew:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r := run(t, opts)
	s := r.until(agent.Connected)
	c := f.visit(s.Bound[0].Port)
	for n := range 3 {
		echo(t, c, "before")
		renew <- struct{}{}
		limit := time.After(patience)
		for f.dialled() < n+2 {
			select {
			case <-limit:
				t.Fatalf("no new carrier after %v", patience)
			case <-time.After(5 * time.Millisecond):
			}
		}
		echo(t, c, "after")
	}
	onceConnected(t, r)
}

// dialled returns how many carriers agents have dialled.
func (f *fixture) dialled() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}
