package policy

import (
	"context"
	"encoding/base64"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func login(t testing.TB, user, password string, cost int) Login {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ParseLogin(user + ":" + string(hash))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, takeLogins) // nobody waits for too long for a turn at hashing
}

func takeLogins(t *testing.T) {
	long := strings.Repeat("p", 72)
	p := Policy{BasicAuth: []Login{
		login(t, "alice", "open sesame", 4),
		login(t, "bob", "pass:word", 5), // another cost
		login(t, "zoë", "日本語", 4),
		login(t, "long", long, 4),
	}}
	for _, tt := range []struct {
		name   string
		fields []string
		want   Code
	}{
		{"none", nil, CodeLogin},
		{"right", []string{basic("alice", "open sesame")}, ""},
		{"other user", []string{basic("bob", "pass:word")}, ""},
		{"not ASCII", []string{basic("zoë", "日本語")}, ""},
		{"72 bytes", []string{basic("long", long)}, ""},
		{"73 bytes, of which bcrypt sees 72", []string{basic("long", long+"x")}, CodeLogin},
		{"wrong password", []string{basic("alice", "open sesam")}, CodeLogin},
		{"another's password", []string{basic("alice", "pass:word")}, CodeLogin},
		{"wrong user", []string{basic("mallory", "open sesame")}, CodeLogin},
		{"case of user", []string{basic("Alice", "open sesame")}, CodeLogin},
		{"no password", []string{basic("alice", "")}, CodeLogin},
		{"nothing", []string{basic("", "")}, CodeLogin},
		{"hash for password", []string{basic("alice", p.BasicAuth[0].hash)}, CodeLogin},
		{"case of scheme", []string{"bASIC" + basic("alice", "open sesame")[5:]}, ""},
		{"spaces", []string{"Basic   " + basic("alice", "open sesame")[6:] + " "}, ""},
		{"no scheme", []string{basic("alice", "open sesame")[6:]}, CodeLogin},
		{"bearer", []string{"Bearer" + basic("alice", "open sesame")[5:]}, CodeLogin},
		{"not base64", []string{"Basic !!!"}, CodeLogin},
		{"no colon", []string{"Basic " + base64.StdEncoding.EncodeToString([]byte("alice"))}, CodeLogin},
		{"twice", []string{basic("alice", "open sesame"), basic("alice", "open sesame")}, CodeLogin},
		{"right and wrong", []string{basic("alice", "open sesame"), basic("alice", "x")}, CodeLogin},
		{"empty", []string{""}, CodeLogin},
	} {
		g := guard(t, p) // each has its own count of wrong logins
		for _, round := range []string{"first", "second"} {
			r := request()
			for _, f := range tt.fields {
				old := r.Values
				r.Values = func(name string) []string {
					if name == "Authorization" {
						return append(old(name), f)
					}
					return old(name)
				}
			}
			pass, err := g.Admit(context.Background(), r)
			if got := code(t, err); got != tt.want {
				t.Errorf("%s, %s time: got %q, want %q", tt.name, round, got, tt.want)
			}
			if err == nil && !pass.DropAuthorization {
				t.Errorf("%s: the upstream would get the login", tt.name)
			}
			if d, ok := err.(*Denied); ok && d.Challenge != `Basic realm="web", charset="UTF-8"` {
				t.Errorf("%s: challenge %q", tt.name, d.Challenge)
			}
		}
	}
}

// A visitor learns nothing of whether the user or the password is wrong.
func TestLoginRefusalsAreAlike(t *testing.T) {
	t.Parallel()
	g := guard(t, Policy{BasicAuth: []Login{login(t, "alice", "open sesame", 4), login(t, "bob", "x", 8)}})
	took := func(user string, round int) time.Duration {
		r := request("Authorization", basic(user, "wrong"))
		r.Visitor = netip.AddrFrom4([4]byte{10, user[0], 0, byte(round)})
		begin := time.Now()
		_, err := g.Admit(context.Background(), r)
		took := time.Since(begin)
		d, ok := errors.AsType[*Denied](err)
		if !ok || *d != (Denied{Code: CodeLogin, Challenge: d.Challenge, reason: "wrong user or password"}) {
			t.Fatalf("%s: got %+v", user, err)
		}
		return took
	}
	// The cost of bob's hash is 16 times that of alice's. What a busy machine
	// adds to a round it does not add to all of them.
	alice, bob, nobody := time.Hour, time.Hour, time.Hour
	for round := range 100 {
		alice, bob, nobody = min(alice, took("alice", round)), min(bob, took("bob", round)), min(nobody, took("nobody", round))
		if round >= 4 && alice*3 >= bob && nobody*3 >= bob {
			return
		}
	}
	t.Errorf("wrong logins took %v (alice), %v (bob) and %v (nobody): these tell users from others", alice, bob, nobody)
}

func TestPassAuthorization(t *testing.T) {
	t.Parallel()
	p := Policy{BasicAuth: []Login{login(t, "alice", "open sesame", 4)}, PassAuthorization: true}
	pass, err := guard(t, p).Admit(context.Background(), request("Authorization", basic("alice", "open sesame")))
	if err != nil || pass.DropAuthorization {
		t.Errorf("got %+v, %v; want the field passed on", pass, err)
	}
}

// Who guesses is slowed down, and nobody else.
func TestWrongLoginsAreLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, limitWrongLogins) // on a clock that does not count how long hashing takes
}

func limitWrongLogins(t *testing.T) {
	g := guard(t, Policy{BasicAuth: []Login{login(t, "alice", "open sesame", 4)}})
	good := request("Authorization", basic("alice", "open sesame"))
	if got := admit(t, g, good); got != "" {
		t.Fatalf("right login: %q", got)
	}
	for i := range wrongLogins.Burst + 1 {
		want := CodeLogin
		if i == wrongLogins.Burst {
			want = CodeRate
		}
		if got := admit(t, g, request("Authorization", basic("alice", "guess"))); got != want {
			t.Errorf("guess %d: got %q, want %q", i+1, got, want)
		}
	}
	if got := admit(t, g, good); got != "" {
		t.Errorf("right login that is known, from the same address: %q", got)
	}
	other := request("Authorization", basic("alice", "open sesame"))
	other.Visitor = netip.MustParseAddr("192.0.2.2")
	if got := admit(t, g, other); got != "" {
		t.Errorf("right login from another address: %q", got)
	}
	for range 3 * wrongLogins.Burst { // right ones do not count
		fresh := guard(t, Policy{BasicAuth: []Login{login(t, "alice", "open sesame", 4)}})
		if got := admit(t, fresh, good); got != "" {
			t.Fatalf("right login: %q", got)
		}
	}
}

// A browser opens several connections with the same login.
func TestLoginsAtOnce(t *testing.T) {
	t.Parallel()
	g := guard(t, Policy{BasicAuth: []Login{login(t, "alice", "open sesame", 6)}})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := g.Admit(context.Background(), request("Authorization", basic("alice", "open sesame"))); err != nil {
				if d, ok := errors.AsType[*Denied](err); !ok || d.Code != CodeRate {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(g.logins.verified.until); n != 1 {
		t.Errorf("%d logins are remembered, want 1", n)
	}
}

func TestVisitorWhoLeavesIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	g := guard(t, Policy{BasicAuth: []Login{login(t, "alice", "open sesame", 4)}})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 100 { // select is random when both are ready
		if _, err := g.Admit(ctx, request("Authorization", basic("alice", "open sesame"))); err == nil {
			continue
		} else if d, ok := errors.AsType[*Denied](err); !ok || d.Code != CodeRate {
			t.Fatalf("got %v", err)
		}
	}
}

func TestNewLogin(t *testing.T) {
	t.Parallel()
	l, err := NewLogin("alice", "open sesame")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := l.MarshalText()
	if again, err := ParseLogin(string(text)); err != nil || again != l {
		t.Errorf("%s: got %v, %v", text, again, err)
	}
	if got := admit(t, guard(t, Policy{BasicAuth: []Login{l}}), request("Authorization", basic("alice", "open sesame"))); got != "" {
		t.Errorf("its own password: %q", got)
	}
	for name, tt := range map[string][2]string{
		"no password": {"alice", ""}, "long": {"alice", strings.Repeat("p", 73)}, "no user": {"", "p"},
		"colon": {"a:b", "p"}, "control": {"a\x00", "p"}, "long user": {strings.Repeat("u", 256), "p"},
	} {
		if l, err := NewLogin(tt[0], tt[1]); err == nil {
			t.Errorf("%s: got %v, want an error", name, l)
		} else if tt[1] != "" && len(tt[1]) > 1 && strings.Contains(err.Error(), tt[1]) {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
}

func FuzzBasic(f *testing.F) {
	f.Add("Basic YTpi")
	f.Add("basic  YTpi ")
	f.Add("Bearer x")
	f.Fuzz(func(t *testing.T, field string) {
		user, password, ok := parseBasic([]string{field})
		if !ok {
			return
		}
		u, p, again := parseBasic([]string{basic(string(user), string(password))})
		if !again || string(u) != string(user) || string(p) != string(password) {
			t.Fatalf("%q is %q:%q, and that is %q:%q", field, user, password, u, p)
		}
	})
}

func BenchmarkKnownLogin(b *testing.B) {
	g := guard(b, Policy{BasicAuth: []Login{login(b, "alice", "open sesame", 10)}})
	r := request("Authorization", basic("alice", "open sesame"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Admit(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}
