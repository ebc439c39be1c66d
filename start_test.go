package adit_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"adit"
	"adit/adittest"
	"adit/auth"
	"adit/dialect/native"
)

// What waiting does not change is said at once.
func TestListenRefused(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	srv.Listen(t, adit.WithID("owned"))
	other := srv.Token(auth.TokenClaims{Subject: "other", Scope: auth.Everything()})
	narrow := srv.Token(auth.TokenClaims{Subject: "narrow", Scope: auth.Scope{IDs: []string{"shop"}}})
	for _, tt := range []struct {
		name string
		opt  adit.Option
		code string
	}{
		{"unknown secret", adit.WithToken(auth.NewSecret().Reveal()), "invalid-credential"},
		{"no credential at all", adit.WithToken("nonsense"), "invalid-credential"},
		{"not in the scope", adit.WithToken(narrow), "forbidden"},
		{"another's name", adit.Options(adit.WithID("owned"), adit.WithToken(other)), "name-taken"},
		{"a port that is not given out", adit.WithTCP(1), "forbidden"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, err := adit.Listen(briefly(t), srv.Options(), adit.WithID("web"), tt.opt)
			if err == nil {
				l.Close()
			}
			wantRefused(t, err, tt.code)
			if s := srv.Secret(); strings.Contains(err.Error(), s) {
				t.Errorf("the error has the secret in it: %v", err)
			}
		})
	}
}

// A server that is not one of adit does not get asked again for ever.
func TestListenNotAdit(t *testing.T) {
	t.Parallel()
	ts := httptest.NewServer(http.NotFoundHandler())
	defer ts.Close()
	_, err := adit.Listen(briefly(t), adit.WithServer(ts.URL), adit.WithToken("adit_x"), adit.WithID("web"))
	wantRefused(t, err, "")
}

// A server that cannot be reached is tried until ctx ends.
func TestListenNobodyThere(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = adit.Listen(ctx, adit.WithServer("ws://"+ln.Addr().String()), adit.WithToken("adit_x"), adit.WithID("web"))
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want %v and the reason, %v", err, context.DeadlineExceeded, syscall.ECONNREFUSED)
	}
}

// Without a deadline of its own Listen has one nevertheless.
func TestListenGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		errDown := errors.New("the network is down")
		begin := time.Now()
		_, err := adit.Listen(t.Context(), adit.WithServer("wss://tunnel.example.com"), adit.WithToken("adit_x"), adit.WithID("web"),
			adit.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, errDown }))
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errDown) {
			t.Errorf("got %v, want %v and the reason, %v", err, context.DeadlineExceeded, errDown)
		}
		if d := time.Since(begin); d != 30*time.Second {
			t.Errorf("gave up after %v, want 30s", d)
		}
	})
}

// A server that comes late is found.
func TestListenWaitsForServer(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	srv.Stop()
	ev := newEvents()
	var wg sync.WaitGroup
	wg.Go(func() {
		for e := ev.until(t, adit.StateConnecting); e.Err == nil; e = ev.until(t, adit.StateConnecting) {
		}
		srv.Restart()
	})
	l, err := adit.Listen(briefly(t), srv.Options(), adit.WithID("web"), ev.option())
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, hello)
	if status, _, _ := get(t, srv, l.URL()); status != 200 {
		t.Errorf("GET: %d, want 200", status)
	}
	l.Close()
}

// ctx ends the start in each of its phases, and has no say afterwards.
func TestListenCancelled(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, tt := range []struct {
		name string
		opt  func(reached func()) adit.Option
	}{
		{"token", func(reached func()) adit.Option {
			return adit.WithTokenFunc(func(ctx context.Context) (string, error) { reached(); return "", hang(ctx) })
		}},
		{"dial", func(reached func()) adit.Option {
			return adit.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { reached(); return nil, hang(ctx) })
		}},
		{"handshake", func(reached func()) adit.Option {
			return adit.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
				near, far := net.Pipe() // to a server that says nothing
				t.Cleanup(func() { far.Close() })
				reached()
				return near, nil
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			_, err := adit.Listen(ctx, srv.Options(), adit.WithID("web"), tt.opt(cancel))
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}
		})
	}
	t.Run("bind", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		d := native.New(native.Options{}) // of a server that admits, and then says nothing
		ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			tun, err := d.Accept(w, r, func(context.Context, auth.Claim) (*auth.Identity, error) {
				return &auth.Identity{Subject: "any", Scope: auth.Everything()}, nil
			})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { tun.Close() })
			cancel()
		}))
		t.Cleanup(ts.Close)
		_, err := adit.Listen(ctx, adit.WithServer(ts.URL), adit.WithToken("adit_x"), adit.WithID("web"))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
	t.Run("before", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := adit.Listen(ctx, srv.Options(), adit.WithID("web")); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
	t.Run("after", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		l, err := adit.Listen(ctx, srv.Options(), adit.WithID("after"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		cancel()
		serve(t, l, hello)
		if status, _, _ := get(t, srv, l.URL()); status != 200 {
			t.Errorf("GET: %d, want 200", status)
		}
	})
}

// A token function that fails at the start is the program's own fault.
func TestTokenFuncFails(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	errVault := errors.New("the vault is sealed")
	for _, tt := range []struct {
		name string
		f    func(context.Context) (string, error)
		want error
	}{
		{"error", func(context.Context) (string, error) { return "", errVault }, errVault},
		{"empty", func(context.Context) (string, error) { return " \n", nil }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := adit.Listen(briefly(t), srv.Options(), adit.WithID("web"), adit.WithTokenFunc(tt.f))
			if err == nil || !strings.Contains(err.Error(), "token: ") || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want the failure of the token function", err)
			}
		})
	}
}

// Whoever sends a credential over an open network is told so.
func TestListenWarns(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		server string
		want   bool
	}{
		{"ws://192.0.2.1", true},
		{"http://192.0.2.1", true},
		{"wss://192.0.2.1", false},
		{"ws://127.0.0.1:1", false},
		{"ws://localhost:1", false},
	} {
		t.Run(tt.server, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := adit.Listen(ctx, adit.WithServer(tt.server), adit.WithToken("adit_marked"), adit.WithID("web"),
				adit.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
			if err == nil {
				t.Fatal("connected")
			}
			if got := strings.Contains(log.String(), "not encrypted"); got != tt.want {
				t.Errorf("warned: %v, want %v; the log is:\n%s", got, tt.want, log.String())
			}
			if strings.Contains(log.String()+err.Error(), "adit_marked") {
				t.Error("the credential is in the log, or in the error")
			}
		})
	}
}
