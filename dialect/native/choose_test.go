package native_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"adit/auth"
	"adit/carrier"
	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/hostile"
)

// hostAndPort is where fs listens.
func (fs *fakeServer) hostAndPort() string { return strings.TrimPrefix(fs.url, "ws://") }

// TestChoose lets an agent find the best carrier of each network.
func TestChoose(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		start func(t *testing.T, server string) string
		want  native.Carrier
	}{
		{"nothing between", func(t *testing.T, s string) string { return s }, native.WebSocket},
		{"delay", func(t *testing.T, s string) string { return hostile.NewDelay(t, s, 300*time.Millisecond) }, native.WebSocket},
		{"without Upgrade", func(t *testing.T, s string) string { return hostile.NewStripper(t, s) }, native.Stream},
		{"buffer of 64 KiB", func(t *testing.T, s string) string { return hostile.NewBuffer(t, s, 64<<10) }, native.Poll},
		{"buffer to the end", func(t *testing.T, s string) string { return hostile.NewBuffer(t, s, 0) }, native.Poll},
		{"HTTP 1.0", func(t *testing.T, s string) string { return hostile.NewHTTP10(t, s) }, native.Poll},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			fs := newFakeServer(t, tcp, native.Options{})
			d := fs.dialer("secret")
			d.Server = "ws://" + tt.start(t, fs.hostAndPort())
			d.Carrier = native.Auto
			file := filepath.Join(t.TempDir(), "below", "carriers.json")
			// What is remembered is tried at once, if not on a busy machine, then
			// some time.
			for n, soon := 0, false; n < 2 || n < 10 && !soon; n++ {
				begin := "remembered"
				if n == 0 {
					begin = "new"
				}
				d.Chooser = native.NewChooser(file, nil)
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				s, err := native.Dial(ctx, d, native.SessionOptions{})
				if err != nil {
					t.Fatal(err)
				}
				took := time.Since(began)
				if s.Carrier() != tt.want {
					t.Errorf("%s: chose %s, want %s", begin, s.Carrier(), tt.want)
				}
				t.Logf("%s: %s after %s", begin, s.Carrier(), took.Round(time.Millisecond))
				s.Close()
				soon = n > 0 && took <= 2*time.Second
				if n == 9 && !soon {
					t.Errorf("took %s though it was known what works", took)
				}
			}
			info, err := os.Stat(file)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the file: %v, %v; want it for its owner alone", info, err)
			}
			b, _ := os.ReadFile(file)
			if strings.Contains(string(b), "127.0.0.1") || strings.Contains(string(b), "secret") {
				t.Errorf("the file tells where the agent was: %s", b)
			}
		})
	}
}

// TestChooseSlow has a crowd before the server: it takes long to be reached, and
// longer to be answered. That says nothing against a carrier.
func TestChooseSlow(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, tcp, native.Options{})
	var asked atomic.Int32
	admit := fs.admit
	fs.admit = func(ctx context.Context, c auth.Claim) (*auth.Identity, error) {
		if asked.Add(1) == 1 {
			crowd := time.NewTimer(1700 * time.Millisecond)
			defer crowd.Stop()
			<-crowd.C
		}
		return admit(ctx, c)
	}
	d := fs.dialer("secret")
	d.Carrier, d.Chooser = native.Auto, native.NewChooser("", nil)
	dial := d.DialContext
	d.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		crowd := time.NewTimer(600 * time.Millisecond)
		defer crowd.Stop()
		<-crowd.C
		return dial(ctx, network, addr)
	}
	s, err := native.Dial(t.Context(), d, native.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Carrier() != native.WebSocket || asked.Load() != 1 {
		t.Errorf("the session is on %s after %d attempts, want a WebSocket after one", s.Carrier(), asked.Load())
	}
}

// TestChooseRefused turns an agent away: it does not ask again in other ways.
func TestChooseRefused(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, tcp, native.Options{})
	var asked atomic.Int32
	fs.admit = func(context.Context, auth.Claim) (*auth.Identity, error) {
		asked.Add(1)
		return nil, &auth.Error{Code: auth.InvalidCredential, Reason: "unknown"}
	}
	d := fs.dialer("secret")
	d.Carrier, d.Chooser = native.Auto, native.NewChooser("", nil)
	_, err := native.Dial(t.Context(), d, native.SessionOptions{})
	var se *carrier.StatusError
	if !errors.As(err, &se) || se.Code != "invalid-credential" || asked.Load() != 1 {
		t.Errorf("Dial: %v after %d attempts, want invalid-credential after one", err, asked.Load())
	}
}

// TestChooseUnreachable finds nobody at all.
func TestChooseUnreachable(t *testing.T) {
	t.Parallel()
	d := &native.Dialer{Server: "ws://127.0.0.1:1", Carrier: native.Auto, Chooser: native.NewChooser("", nil)}
	_, err := native.Dial(t.Context(), d, native.SessionOptions{})
	var de *carrier.DialError
	if !errors.As(err, &de) || de.Phase != carrier.PhaseDial {
		t.Errorf("Dial: %v, want a failed dial", err)
	}
}

// TestChooseSilence has a network that swallows everything: the error says how
// far the agent got.
func TestChooseSilence(t *testing.T) {
	t.Parallel()
	d := &native.Dialer{
		Server: "ws://127.0.0.1:1", Carrier: native.Auto, Chooser: native.NewChooser("", nil),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := native.Dial(ctx, d, native.SessionOptions{})
	var de *carrier.DialError
	if !errors.As(err, &de) || de.Phase != carrier.PhaseDial || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial: %v, want a dial that took too long", err)
	}
}

// TestChooseAfterShortLives has a network that ends each connection soon: after
// some WebSockets the session is on a carrier that does not mind, and its
// streams know nothing of it.
func TestChooseAfterShortLives(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, tcp, native.Options{})
	d := fs.dialer("secret")
	d.Server = "ws://" + hostile.NewKiller(t, fs.hostAndPort(), 300*time.Millisecond)
	d.Carrier, d.Chooser = native.Auto, native.NewChooser("", nil)
	tun, s := fs.start(t, d, native.SessionOptions{})
	near, far := stream(t, tun, s)
	deadline := time.Now().Add(patience)
	for n := 0; s.Carrier() == native.WebSocket; n++ {
		ping(t, near, far, n)
		if time.Now().After(deadline) {
			t.Fatal("the agent goes on with WebSockets")
		}
	}
	for n := range 50 {
		ping(t, near, far, n)
	}
}

// ping sends a line from near to far and back.
func ping(t *testing.T, near, far net.Conn, n int) {
	t.Helper()
	want := fmt.Sprintf("%08d", n)
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		if _, err := io.WriteString(way[0], want); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(way[1], got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
}

// TestUpgrade lets a network become a good one: the session moves to a
// WebSocket, and its streams go on.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, bad := range []struct {
		name  string
		start func(t *testing.T, server string) string
		kind  native.Carrier
	}{
		{"from stream", func(t *testing.T, s string) string { return hostile.NewStripper(t, s) }, native.Stream},
		{"from poll", func(t *testing.T, s string) string { return hostile.NewBuffer(t, s, 0) }, native.Poll},
	} {
		t.Run(bad.name, func(t *testing.T) {
			t.Parallel()
			fs := newFakeServer(t, tcp, native.Options{})
			var good atomic.Bool
			through := bad.start(t, fs.hostAndPort())
			d := fs.dialer("secret")
			d.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if !good.Load() {
					addr = through
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
			d.Carrier, d.Chooser = native.Auto, native.NewImpatientChooser(200*time.Millisecond)
			s, err := native.Dial(t.Context(), d, native.SessionOptions{})
			if err != nil {
				t.Fatal(err)
			}
			serve(t, s)
			a := fs.next(t)
			for a.err != nil { // of carriers that do not work
				a = fs.next(t)
			}
			tun := a.t
			if s.Carrier() != bad.kind {
				t.Fatalf("the session is on %s, want %s", s.Carrier(), bad.kind)
			}
			near, far := stream(t, tun, s)
			good.Store(true)
			deadline := time.Now().Add(patience)
			for n := 0; s.Carrier() != native.WebSocket; n++ {
				ping(t, near, far, n)
				if time.Now().After(deadline) {
					t.Fatalf("the session is still on %s", s.Carrier())
				}
			}
			ping(t, near, far, 1)
			for a = fs.next(t); !errors.Is(a.err, dialect.ErrResumed); a = fs.next(t) {
			}
			if a.t != tun {
				t.Errorf("Accept: %v, want the same tunnel", a.t)
			}
		})
	}
}

// TestCloseIsHeard closes sessions at once after they began: the server hears of
// it, and does not wait for them to come back.
func TestCloseIsHeard(t *testing.T) {
	t.Parallel()
	for _, kind := range native.Carriers {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			fs := newFakeServer(t, tcp, native.Options{})
			for range 20 {
				d := fs.dialer("secret")
				d.Carrier = kind
				s, err := native.Dial(t.Context(), d, native.SessionOptions{})
				if err != nil {
					t.Fatal(err)
				}
				a := fs.next(t)
				if a.err != nil {
					t.Fatal(a.err)
				}
				s.Close()
				select {
				case <-a.t.Done():
				case <-time.After(patience):
					t.Fatal("the server has not heard of the end")
				}
			}
		})
	}
}
