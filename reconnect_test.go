package adit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"adit"
	"adit/adittest"
	"adit/auth"
)

// A conn survives the connection to the server.
func TestConnSurvivesCut(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	ev := newEvents()
	l := srv.Listen(t, adit.WithID("raw"), adit.WithTCP(0), ev.option())
	visitor := visit(t, l.URL())
	c := accept(t, l)
	pass(t, visitor, c, "before")
	ev.until(t, adit.StateConnected)
	srv.Cut()
	if e := ev.until(t, adit.StateReconnecting); e.Err == nil {
		t.Errorf("event %v, want a reason", e)
	}
	pass(t, visitor, c, "behind")
	pass(t, c, visitor, "back")
	if e := ev.until(t, adit.StateConnected); !slices.Equal(e.URLs, l.URLs()) {
		t.Errorf("event %v, want the same addresses as before, %s", e, l.URLs())
	}
}

// A Listener comes back to a server that has been restarted, and a visitor who
// comes meanwhile waits for it.
func TestListenSurvivesRestart(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	ev := newEvents()
	l := srv.Listen(t, adit.WithID("web"), ev.option())
	serve(t, l, hello)
	before := l.URL()
	get(t, srv, before)
	ev.until(t, adit.StateConnected)
	srv.Restart()
	if status, _, body := get(t, srv, before+"again"); status != 200 || body != "hello from /again" {
		t.Errorf("after the restart: %d %q", status, body)
	}
	ev.until(t, adit.StateReconnecting)
	ev.until(t, adit.StateConnected)
	if l.URL() != before {
		t.Errorf("URL: %s, before the restart it was %s", l.URL(), before)
	}
}

// Listeners with one ID share its visitors.
func TestListenersShare(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	var visits [2]atomic.Int64
	for i := range visits {
		l := srv.Listen(t, adit.WithID("web"))
		serve(t, l, func(w http.ResponseWriter, r *http.Request) {
			visits[i].Add(1)
			hello(w, r)
		})
	}
	for range 8 {
		get(t, srv, srv.URL()+"/web/")
	}
	if a, b := visits[0].Load(), visits[1].Load(); a == 0 || b == 0 || a+b != 8 {
		t.Errorf("visits: %d and %d, want 8 that both have a share of", a, b)
	}
}

// A Listener with the instance of another takes over from it.
func TestSuperseded(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	ev := newEvents()
	old := srv.Listen(t, adit.WithID("web"), adit.WithInstance("blue"), ev.option())
	accepted := make(chan error, 1)
	go func() {
		_, err := old.Accept()
		accepted <- err
	}()
	l := srv.Listen(t, adit.WithID("web"), adit.WithInstance("blue"))
	serve(t, l, hello)
	if err := <-accepted; !errors.Is(err, adit.ErrSuperseded) || errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v, want %v", err, adit.ErrSuperseded)
	}
	if err := wait(t, old); !errors.Is(err, adit.ErrSuperseded) {
		t.Errorf("Wait: %v, want %v", err, adit.ErrSuperseded)
	}
	if e := ev.until(t, adit.StateClosed); !errors.Is(e.Err, adit.ErrSuperseded) {
		t.Errorf("last event: %v, want %v", e, adit.ErrSuperseded)
	}
	if status, _, _ := get(t, srv, l.URL()); status != 200 {
		t.Errorf("GET: %d, want 200", status)
	}
}

// A Listener whose credential is refused asks for one again until it is not.
func TestRefusedLater(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	var narrow atomic.Bool
	tokens := adit.WithTokenFunc(func(context.Context) (string, error) {
		if narrow.Load() {
			return srv.Token(auth.TokenClaims{Subject: "shop", Scope: auth.Scope{IDs: []string{"shop"}}}), nil
		}
		return srv.Token(auth.TokenClaims{Subject: "shop", Scope: auth.Scope{IDs: []string{"*"}}}), nil
	})
	ev := newEvents()
	l := srv.Listen(t, adit.WithID("web"), tokens, ev.option())
	serve(t, l, hello)
	ev.until(t, adit.StateConnected)
	narrow.Store(true)
	srv.Restart()
	wantRefused(t, ev.until(t, adit.StateRefused).Err, "forbidden")
	narrow.Store(false)
	ev.until(t, adit.StateConnected)
	if status, _, _ := get(t, srv, l.URL()); status != 200 {
		t.Errorf("GET: %d, want 200", status)
	}
}

// So does one that is let in, and cannot have its port any more.
func TestPortRefusedLater(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	port, _ := srv.TCPPorts()
	var narrow atomic.Bool
	tokens := adit.WithTokenFunc(func(context.Context) (string, error) {
		scope := auth.Everything()
		if narrow.Load() {
			scope.Ports = nil
		}
		return srv.Token(auth.TokenClaims{Subject: "raw", Scope: scope}), nil
	})
	ev := newEvents()
	l := srv.Listen(t, adit.WithID("raw"), adit.WithTCP(port), tokens, ev.option())
	ev.until(t, adit.StateConnected)
	narrow.Store(true)
	srv.Restart()
	wantRefused(t, ev.until(t, adit.StateRefused).Err, "forbidden")
	narrow.Store(false)
	ev.until(t, adit.StateConnected)
	pass(t, visit(t, l.URL()), accept(t, l), "hello")
}

// A token is replaced before it expires, and no conn notices.
func TestTokenRefreshed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := adittest.NewMemoryServer(t)
		var asked atomic.Int64
		token := adit.WithTokenFunc(func(context.Context) (string, error) {
			asked.Add(1)
			return srv.Token(auth.TokenClaims{
				Subject: "web", Scope: auth.Everything(), Expires: time.Now().Add(10 * time.Minute),
			}), nil
		})
		ev := newEvents()
		l := srv.Listen(t, adit.WithID("web"), token, ev.option())
		serve(t, l, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(2 * time.Hour)
			hello(w, r)
		})
		ev.until(t, adit.StateConnected)
		patient := *srv.Client()
		patient.Timeout = 0
		resp, err := patient.Get(l.URL() + "slow")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); string(b) != "hello from /slow" {
			t.Errorf("two hours later: %q, %v", b, err)
		}
		if n := asked.Load(); n < 12 || n > 30 {
			t.Errorf("asked for %d tokens that last 10 minutes, in two hours", n)
		}
		select {
		case e := <-ev:
			t.Errorf("event %v, want none", e)
		default:
		}
	})
}

// A token function that fails once the Listener is up is asked again.
func TestTokenFuncFailsLater(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	errVault := errors.New("the vault is sealed")
	var calls atomic.Int64
	tokens := adit.WithTokenFunc(func(context.Context) (string, error) {
		if n := calls.Add(1); n == 2 || n == 3 {
			return "", errVault
		}
		return srv.Secret(), nil
	})
	ev := newEvents()
	l := srv.Listen(t, adit.WithID("web"), tokens, ev.option())
	serve(t, l, hello)
	ev.until(t, adit.StateConnected)
	srv.Restart()
	for {
		if e := ev.until(t, adit.StateReconnecting); errors.Is(e.Err, errVault) {
			break
		}
	}
	ev.until(t, adit.StateConnected)
	if status, _, _ := get(t, srv, l.URL()); status != 200 {
		t.Errorf("GET: %d, want 200", status)
	}
}

// After Close nobody is asked for a credential, which comes before each attempt
// to connect, wherever the Listener was on its way back to the server.
func TestCloseIsFinal(t *testing.T) {
	t.Parallel()
	for name, part := range map[string]func(*adittest.Server){"stopped": (*adittest.Server).Stop, "cut": (*adittest.Server).Cut} {
		for _, after := range []time.Duration{0, 50 * time.Millisecond, time.Second, 4 * time.Second, time.Minute, time.Hour} {
			t.Run(fmt.Sprint(name, " ", after, " before"), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					srv := adittest.NewMemoryServer(t)
					var asked atomic.Int64
					var away atomic.Bool
					l := srv.Listen(t, adit.WithID("web"), adit.WithTokenFunc(func(context.Context) (string, error) {
						asked.Add(1)
						if away.Load() {
							return "", errors.New("not to be had")
						}
						return srv.Secret(), nil
					}))
					away.Store(true)
					part(srv)
					time.Sleep(after) // the bubble's clock
					before := asked.Load()
					if after > 0 && before == 1 {
						t.Errorf("nobody tried to connect within %v", after)
					}
					began := time.Now()
					l.Close()
					if took := time.Since(began); took > time.Second {
						t.Errorf("Close took %v, want 1s at most", took)
					}
					before = asked.Load()
					time.Sleep(time.Hour)
					if n := asked.Load() - before; n != 0 {
						t.Errorf("asked %d times after Close", n)
					}
					if err := l.Wait(); err != nil {
						t.Errorf("Wait: %v, want nil", err)
					}
				})
			})
		}
	}
}

// Nor is anything dialled after Close, or has to be waited for, by a session
// that has lost its connection and has no conns for which it would need another.
func TestCloseDialsNoMore(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string]bool{"nobody there": false, "no answer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := adittest.NewServer(t)
			var dials atomic.Int64
			var away atomic.Bool
			tried := make(chan struct{}, 1000)
			var conn net.Conn
			l := srv.Listen(t, adit.WithID("web"), adit.WithDialContext(func(ctx context.Context, network, addr string) (c net.Conn, err error) {
				dials.Add(1)
				if !away.Load() {
					c, err = new(net.Dialer).DialContext(ctx, network, addr)
					conn = c
					return c, err
				}
				tried <- struct{}{}
				if hang {
					<-ctx.Done()
				}
				return nil, errors.New("nobody there")
			}))
			away.Store(true)
			conn.Close()
			<-tried
			began := time.Now()
			l.Close()
			after := dials.Load()
			wait(t, l)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the Listener took %v to end, want little more than 1s", took)
			}
			if n := dials.Load() - after; n != 0 {
				t.Errorf("dialled %d times after Close", n)
			}
		})
	}
}
