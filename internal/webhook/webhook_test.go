package webhook

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func verifier(t testing.TB, scheme string, secrets ...string) *Verifier {
	t.Helper()
	v, err := New(Options{Scheme: scheme, Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func header(fields ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return h
}

// code returns the code of a refusal, and "" for nil.
func code(t testing.TB, err error) Code {
	t.Helper()
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("error %v (%T), want an *Error", err, err)
	}
	return e.Code
}

func sign(sum func() hash.Hash, key, text string) []byte {
	m := hmac.New(sum, []byte(key))
	m.Write([]byte(text))
	return m.Sum(nil)
}

// What the senders' own documentation gives as examples.
func TestExamples(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		scheme, secret string
		h              http.Header
		body           string
		at             int64
	}{
		{
			"github", "It's a Secret to Everybody",
			header("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
			"Hello, World!", 0,
		}, {
			"slack", "8f742231b10e8888abcd99yyyzzz85a5",
			header("X-Slack-Request-Timestamp", "1531420618",
				"X-Slack-Signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
			"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar" +
				"&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=" +
				"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN" +
				"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c", 1531420618,
		}, {
			"svix", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
			header("svix-id", "msg_p5jXN8AQM9LWM0D4loKWxJek", "svix-timestamp", "1614265330",
				"svix-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
			`{"test": 2432232314}`, 1614265330,
		}, {
			"standard", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
			header("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp", "1614265330",
				"webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
			`{"test": 2432232314}`, 1614265330,
		},
	} {
		v := verifier(t, tt.scheme, tt.secret)
		if err := v.Verify(tt.h, []byte(tt.body), time.Unix(tt.at, 0)); err != nil {
			t.Errorf("%s: %v", tt.scheme, err)
		}
		v = verifier(t, tt.scheme, tt.secret)
		if got := code(t, v.Verify(tt.h, []byte(tt.body+" "), time.Unix(tt.at, 0))); got != Invalid {
			t.Errorf("%s, another body: %q, want %q", tt.scheme, got, Invalid)
		}
	}
}

const body = `{"hello":"world"}`

// signed returns the header of a request that secret has signed at that time.
func signed(scheme, secret string, at int64) http.Header {
	ts := fmt.Sprint(at)
	switch scheme {
	case "github":
		return header("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sign(sha256.New, secret, body)))
	case "shopify":
		return header("X-Shopify-Hmac-Sha256", base64.StdEncoding.EncodeToString(sign(sha256.New, secret, body)))
	case "stripe":
		return header("Stripe-Signature", "t="+ts+",v1="+hex.EncodeToString(sign(sha256.New, secret, ts+"."+body))+",v0=00")
	case "slack":
		return header("X-Slack-Request-Timestamp", ts, "X-Slack-Signature", "v0="+hex.EncodeToString(sign(sha256.New, secret, "v0:"+ts+":"+body)))
	case "svix", "standard":
		key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		sig := "v1," + base64.StdEncoding.EncodeToString(sign(sha256.New, string(key), "msg_1."+ts+"."+body))
		family := map[string]string{"svix": "Svix-", "standard": "Webhook-"}[scheme]
		return header(family+"Id", "msg_1", family+"Timestamp", ts, family+"Signature", "v2,xx v1,AAAA "+sig)
	}
	panic(scheme)
}

var secretOf = map[string][2]string{
	"github": {"a secret for tests", "the next secret"}, "shopify": {"a secret for tests", "the next secret"},
	"stripe": {"whsec_abcdefgh", "whsec_ijklmnop"}, "slack": {"0123456789abcdef", "fedcba9876543210"},
	"svix": {"whsec_AAECAwQFBgcICQoLDA0ODw==", "whsec_DwAOAA0ADAALAAoACQAIAA=="}, "standard": {"whsec_AAECAwQFBgcICQoLDA0ODw==", "whsec_DwAOAA0ADAALAAoACQAIAA=="},
}

func TestSchemes(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	for _, scheme := range Schemes {
		old, next := secretOf[scheme][0], secretOf[scheme][1]
		timed := scheme != "github" && scheme != "shopify"
		check := func(name string, want Code, h http.Header, secrets ...string) {
			t.Helper()
			if got := code(t, verifier(t, scheme, secrets...).Verify(h, []byte(body), now)); got != want {
				t.Errorf("%s, %s: got %q, want %q", scheme, name, got, want)
			}
		}
		check("good", "", signed(scheme, old, now.Unix()), old)
		check("old and new secret, signed with the old", "", signed(scheme, old, now.Unix()), next, old)
		check("old and new secret, signed with the new", "", signed(scheme, next, now.Unix()), next, old)
		check("other secret", Invalid, signed(scheme, next, now.Unix()), old)
		check("no header", Missing, header(), old)
		for name := range signed(scheme, old, 1) {
			twice := signed(scheme, old, now.Unix())
			twice.Add(name, "x")
			check(name+" twice", Invalid, twice, old)
			without := signed(scheme, old, now.Unix())
			without.Del(name)
			check("no "+name, Missing, without, old)
			empty := signed(scheme, old, now.Unix())
			empty.Set(name, "")
			check("empty "+name, Missing, empty, old)
			long := signed(scheme, old, now.Unix())
			long.Set(name, strings.Repeat("x", 5000))
			check("long "+name, Invalid, long, old)
		}
		late, early := Code(""), Code("")
		if timed {
			late, early = Expired, Expired
		}
		check("5 min old", "", signed(scheme, old, now.Unix()-300), old)
		check("older", late, signed(scheme, old, now.Unix()-301), old)
		check("from the future", early, signed(scheme, old, now.Unix()+301), old)
		check("older, and wrong", Invalid, signed(scheme, next, now.Unix()-301), old)
	}
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	good := func(scheme string) http.Header { return signed(scheme, secretOf[scheme][0], now.Unix()) }
	both := good("svix")
	for name, values := range good("standard") {
		both[name] = values
	}
	dotted := header("Svix-Id", "a.1700000000", "Svix-Timestamp", "1700000000", "Svix-Signature", "v1,AAAA")
	for _, tt := range []struct {
		name, scheme string
		h            http.Header
		want         Code
	}{
		{"github without prefix", "github", header("X-Hub-Signature-256", good("github").Get("X-Hub-Signature-256")[7:]), Invalid},
		{"github sha1", "github", header("X-Hub-Signature", "sha1=00"), Missing},
		{"github not hex", "github", header("X-Hub-Signature-256", "sha256=zz"), Invalid},
		{"github short", "github", header("X-Hub-Signature-256", good("github").Get("X-Hub-Signature-256")[:20]), Invalid},
		{"github no bytes", "github", header("X-Hub-Signature-256", "sha256="), Invalid},
		{"stripe without time", "stripe", header("Stripe-Signature", "v1=00"), Missing},
		{"stripe without v1", "stripe", header("Stripe-Signature", "t=1700000000,v0=00"), Missing},
		{"stripe with two times", "stripe", header("Stripe-Signature", "t=1,"+good("stripe").Get("Stripe-Signature")), Invalid},
		{"stripe time no number", "stripe", header("Stripe-Signature", "t=now,v1=00"), Invalid},
		{"stripe time negative", "stripe", header("Stripe-Signature", "t=-5,v1=00"), Invalid},
		{"stripe time huge", "stripe", header("Stripe-Signature", "t=99999999999999999999,v1=00"), Invalid},
		{"slack v1", "slack", header("X-Slack-Request-Timestamp", "1700000000", "X-Slack-Signature", "v1=00"), Invalid},
		{"svix no v1", "svix", header("Svix-Id", "x", "Svix-Timestamp", "1700000000", "Svix-Signature", "v2,AAAA"), Missing},
		{"svix and standard", "svix", both, Invalid},
		{"svix dot in the ID", "svix", dotted, Invalid},
	} {
		v := verifier(t, tt.scheme, secretOf[tt.scheme][0])
		if got := code(t, v.Verify(tt.h, []byte(body), now)); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	// More signatures than are looked at.
	many := "t=1700000000" + strings.Repeat(",v1=00", maxSignatures) + "," + strings.SplitN(good("stripe").Get("Stripe-Signature"), ",", 2)[1]
	if got := code(t, verifier(t, "stripe", secretOf["stripe"][0]).Verify(header("Stripe-Signature", many), []byte(body), now)); got != Invalid {
		t.Errorf("17 signatures: got %q, want %q", got, Invalid)
	}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	for _, scheme := range []string{"stripe", "slack", "svix"} {
		secret := secretOf[scheme][0]
		v := verifier(t, scheme, secret, secretOf[scheme][1])
		h := signed(scheme, secret, now.Unix())
		if err := v.Verify(h, []byte(body), now); err != nil {
			t.Fatal(err)
		}
		if got := code(t, v.Verify(h, []byte(body), now.Add(time.Minute))); got != Replayed {
			t.Errorf("%s, again: %q, want %q", scheme, got, Replayed)
		}
		// The same words under the other secret are the same request.
		if got := code(t, v.Verify(signed(scheme, secretOf[scheme][1], now.Unix()), []byte(body), now.Add(time.Minute))); got != Replayed {
			t.Errorf("%s, again, signed with the other secret: %q, want %q", scheme, got, Replayed)
		}
		if got := code(t, v.Verify(signed(scheme, secret, now.Unix()+1), []byte(body), now.Add(time.Minute))); got != "" {
			t.Errorf("%s, sent anew: %q", scheme, got)
		}
		if got := code(t, v.Verify(h, []byte(body), now.Add(5*time.Minute))); got != Replayed {
			t.Errorf("%s, at the end of its time: %q, want %q", scheme, got, Replayed)
		}
		if got := code(t, v.Verify(h, []byte(body), now.Add(5*time.Minute+time.Second))); got != Expired {
			t.Errorf("%s, after its time: %q, want %q", scheme, got, Expired)
		}
	}
	v := verifier(t, "github", secretOf["github"][0])
	for range 2 { // GitHub delivers the same again when asked to
		if err := v.Verify(signed("github", secretOf["github"][0], 0), []byte(body), now); err != nil {
			t.Errorf("github: %v", err)
		}
	}
}

// Rather than forget a request, which could then come again, no more are taken.
func TestSeenIsBounded(t *testing.T) {
	t.Parallel()
	var s seen
	now := time.Unix(1_700_000_000, 0)
	for i := range maxSeen {
		if err := s.add(sha256.Sum256(fmt.Append(nil, i)), now, now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.add(sha256.Sum256([]byte("x")), now, now.Add(time.Minute)); err != errBusy {
		t.Errorf("one more: %v, want errBusy", err)
	}
	if err := s.add(sha256.Sum256([]byte("x")), now.Add(2*time.Minute), now.Add(3*time.Minute)); err != nil {
		t.Errorf("when their time is over: %v", err)
	}
	if n := len(s.until); n != 1 {
		t.Errorf("%d are remembered, want 1", n)
	}
}

func TestHMAC(t *testing.T) {
	t.Parallel()
	const secret = "a secret for tests"
	for scheme, h := range map[string]http.Header{
		"hmac":                         header("X-Signature", hex.EncodeToString(sign(sha256.New, secret, body))),
		"hmac:hash=sha256":             header("X-Signature", hex.EncodeToString(sign(sha256.New, secret, body))),
		"hmac:header=X-Mine,hash=sha1": header("X-Mine", hex.EncodeToString(sign(sha1.New, secret, body))),
		"hmac:hash=sha512,encoding=base64,prefix=sig=":                  header("X-Signature", "sig="+base64.StdEncoding.EncodeToString(sign(sha512.New, secret, body))),
		"hmac:header=X-Hub-Signature-256,prefix=sha256=,encoding=hex":   header("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sign(sha256.New, secret, body))),
		"hmac:encoding=base64,hash=sha256,header=X-Shopify-Hmac-Sha256": header("X-Shopify-Hmac-Sha256", base64.StdEncoding.EncodeToString(sign(sha256.New, secret, body))),
	} {
		if err := verifier(t, scheme, secret).Verify(h, []byte(body), time.Now()); err != nil {
			t.Errorf("%s: %v", scheme, err)
		}
		if got := code(t, verifier(t, scheme, "another secret").Verify(h, []byte(body), time.Now())); got != Invalid {
			t.Errorf("%s with another secret: %q, want %q", scheme, got, Invalid)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		opts Options
		want string
	}{
		{Options{Scheme: "", Secrets: []string{"12345678"}}, "want one of github"},
		{Options{Scheme: "gitlab", Secrets: []string{"12345678"}}, `"gitlab"`},
		{Options{Scheme: "github:x", Secrets: []string{"12345678"}}, `"github:x"`},
		{Options{Scheme: "github:", Secrets: []string{"12345678"}}, `"github:"`},
		{Options{Scheme: "hmac:hash=md5", Secrets: []string{"12345678"}}, "hash=md5"},
		{Options{Scheme: "hmac:header=", Secrets: []string{"12345678"}}, "header="},
		{Options{Scheme: "hmac:header=Content-Length", Secrets: []string{"12345678"}}, "Content-Length"},
		{Options{Scheme: "hmac:header=Adit-X", Secrets: []string{"12345678"}}, "Adit-X"},
		{Options{Scheme: "hmac:secret=x", Secrets: []string{"12345678"}}, "secret=x"},
		{Options{Scheme: "github"}, "0 secrets"},
		{Options{Scheme: "github", Secrets: make([]string, 11)}, "11 secrets"},
		{Options{Scheme: "github", Secrets: []string{"good enough", "short"}}, "secret 2"},
		{Options{Scheme: "github", Secrets: []string{""}}, "0 bytes"},
		{Options{Scheme: "svix", Secrets: []string{"whsec_hunter2!!"}}, "base64"},
		{Options{Scheme: "stripe", Secrets: []string{"12345678"}, Tolerance: -1}, "tolerance"},
		{Options{Scheme: "stripe", Secrets: []string{"12345678"}, Tolerance: 2 * time.Hour}, "tolerance"},
	} {
		_, err := New(tt.opts)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: %v, want an error with %q", tt.opts, err, tt.want)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("t=1700000000,v1=00", "v0=00", "1700000000", "v1,AAAA v1,BBBB", "id", []byte("{}"))
	var all []*Verifier
	for _, s := range append(Schemes, "hmac") {
		secret := secretOf[s][0]
		if s == "hmac" {
			secret = "a secret for tests"
		}
		v, err := New(Options{Scheme: s, Secrets: []string{secret}})
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, v)
	}
	f.Fuzz(func(t *testing.T, a, b, at, sigs, id string, body []byte) {
		h := header("Stripe-Signature", a, "X-Slack-Signature", b, "X-Slack-Request-Timestamp", at,
			"Svix-Signature", sigs, "Svix-Id", id, "Svix-Timestamp", at, "X-Hub-Signature-256", a,
			"X-Shopify-Hmac-Sha256", sigs, "X-Signature", b)
		for _, v := range all {
			if err := v.Verify(h, body, time.Unix(1_700_000_000, 0)); err == nil {
				t.Fatalf("%q is accepted", h)
			}
		}
	})
}
