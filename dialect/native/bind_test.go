package native_test

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
)

// fakeBinds answers as it is told.
type fakeBinds struct {
	bind    func(context.Context, dialect.Binding) (dialect.Bound, error)
	unbind  func(context.Context, string) error
	refresh func(context.Context, auth.Claim) error
}

func (f *fakeBinds) Bind(ctx context.Context, b dialect.Binding) (dialect.Bound, error) {
	return f.bind(ctx, b)
}
func (f *fakeBinds) Unbind(ctx context.Context, key string) error { return f.unbind(ctx, key) }
func (f *fakeBinds) Refresh(ctx context.Context, c auth.Claim) error {
	return f.refresh(ctx, c)
}

func TestBind(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, tcp, native.Options{})
	tun, s := fs.start(t, fs.dialer("secret"), native.SessionOptions{})
	var mu sync.Mutex // guards the next three
	var asked []dialect.Binding
	var refreshed auth.Claim
	busy := 0
	answers := map[string]error{
		"taken":  &dialect.BindError{Code: dialect.BindTaken, Reason: "it is somebody's"},
		"auth":   &auth.Error{Code: auth.Forbidden, Reason: "not with this one"},
		"other":  errors.New("database password is hunter2"),
		"nasty":  &dialect.BindError{Code: "new\x1bcode", Reason: "clear\x1b[2Jscreen\xff"},
		"longer": &dialect.BindError{Code: dialect.BindInvalid, Reason: strings.Repeat("x", 100_000)},
	}
	full := dialect.Bound{
		URLs: []string{"https://web.example.com/", "https://example.com/web/"},
		Port: 2222,
		Addr: netip.MustParseAddrPort("[2001:db8::1]:2222"),
	}
	h := &fakeBinds{
		bind: func(_ context.Context, b dialect.Binding) (dialect.Bound, error) {
			mu.Lock()
			asked = append(asked, b)
			if busy++; busy > 1 {
				t.Error("BindHandler is called twice at a time")
			}
			mu.Unlock()
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				busy--
			}()
			if b.Key == "url" {
				return dialect.Bound{URLs: []string{"https://\x1b[2J.example.com/"}}, nil
			}
			if err := answers[b.Key]; err != nil {
				return dialect.Bound{}, err
			}
			return full, nil
		},
		unbind: func(_ context.Context, key string) error { return answers[key] },
		refresh: func(_ context.Context, c auth.Claim) error {
			mu.Lock()
			defer mu.Unlock()
			refreshed = c
			return answers[c.Token]
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	// A call that comes before ServeBinds waits for it.
	want := dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "web", Service: "ssh", Port: 2222}
	done := make(chan struct{})
	go func() {
		defer close(done)
		got, err := s.Bind(ctx, want)
		if err != nil || !reflect.DeepEqual(got, full) {
			t.Errorf("Bind: %+v, %v; want %+v", got, err, full)
		}
	}()
	tun.(dialect.Binder).ServeBinds(h)
	<-done
	mu.Lock()
	first := slices.Clone(asked)
	mu.Unlock()
	if len(first) != 1 || !reflect.DeepEqual(first[0], want) {
		t.Errorf("handler was asked for %+v, want %+v", first, want)
	}

	for _, tt := range []struct {
		key, code, reason string
	}{
		{"taken", "name-taken", "it is somebody's"},
		{"auth", "forbidden", "not with this one"},
		{"other", "internal", "the server failed"},
		{"nasty", "new?code", "clear?[2Jscreen?"},
		{"longer", "invalid", strings.Repeat("x", 1024)},
	} {
		_, berr := s.Bind(ctx, dialect.Binding{Key: tt.key, Kind: dialect.HTTP, ID: "web"})
		for name, err := range map[string]error{"Bind": berr, "Unbind": s.Unbind(ctx, tt.key), "Refresh": s.Refresh(ctx, tt.key)} {
			var be *dialect.BindError
			if !errors.As(err, &be) || string(be.Code) != tt.code || be.Reason != tt.reason {
				t.Errorf("%s of %q: %.200v, want a BindError %s: %.100s", name, tt.key, err, tt.code, tt.reason)
			}
			if refused, _ := native.Refused(err); !refused {
				t.Errorf("%s of %q: %.200v is no refusal, want one", name, tt.key, err)
			}
		}
	}
	if _, err := s.Bind(ctx, dialect.Binding{Key: "url"}); err == nil {
		t.Error("Bind: no error for a URL with control characters")
	}
	if err := errors.Join(s.Unbind(ctx, "k"), s.Refresh(ctx, "token")); err != nil {
		t.Errorf("Unbind and Refresh: %v", err)
	}
	mu.Lock()
	claim := refreshed
	mu.Unlock()
	if claim.Token != "token" || claim.ID != "web" {
		t.Errorf("Refresh claims %+v, want the token for web", claim)
	}

	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := s.Bind(ctx, want); err != nil {
				t.Errorf("Bind: %v", err)
			}
		})
	}
	wg.Wait()
}

// TestBindEnds ends the session during a call: its ctx ends.
func TestBindEnds(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, tcp, native.Options{})
	tun, s := fs.start(t, fs.dialer("secret"), native.SessionOptions{})
	entered := make(chan struct{})
	tun.(dialect.Binder).ServeBinds(&fakeBinds{bind: func(ctx context.Context, _ dialect.Binding) (dialect.Bound, error) {
		close(entered)
		<-ctx.Done()
		return dialect.Bound{}, ctx.Err()
	}})
	done := make(chan error, 1)
	go func() {
		_, err := s.Bind(t.Context(), dialect.Binding{})
		done <- err
	}()
	<-entered
	tun.Close()
	if err := <-done; err == nil {
		t.Error("Bind: no error after the session has ended")
	}
}

// TestBindUnserved ends a session on which nobody serves binds.
func TestBindUnserved(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, tcp, native.Options{})
	tun, s := fs.start(t, fs.dialer("secret"), native.SessionOptions{})
	done := make(chan error, 1)
	go func() {
		_, err := s.Bind(t.Context(), dialect.Binding{})
		done <- err
	}()
	tun.Close()
	if err := <-done; err == nil {
		t.Error("Bind: no error after the session has ended")
	}
}
