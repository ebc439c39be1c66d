package policy

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// hash of "open sesame", with the least cost.
const (
	sesame     = "open sesame"
	sesameHash = "$2a$04$EH/u9Q/sviBQ4HbTJGO.bOzdw8Rs9BjHBCNSqWujei4acnii7crIq"
)

func full(t testing.TB) Policy {
	t.Helper()
	key, err := NewViewerKey([]byte("a master key, long enough"), "web")
	if err != nil {
		t.Fatal(err)
	}
	login, err := ParseLogin("alice:" + sesameHash)
	if err != nil {
		t.Fatal(err)
	}
	return Policy{
		AllowIP:    prefixes("192.0.2.0/24", "2001:db8::/32"),
		DenyIP:     prefixes("192.0.2.66"),
		Rate:       Rate{100, time.Second, 200},
		TotalRate:  Rate{600, time.Minute, 600},
		MaxBody:    10 << 20,
		BasicAuth:  []Login{login},
		ViewerKeys: []ViewerKey{key},
		VisitorCA:  string(newCA(t).pem),
	}
}

func TestEncodeAndParse(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]Policy{
		"zero":    {},
		"full":    full(t),
		"address": {AllowIP: prefixes("2001:db8::1")},
		"errors":  {AgentErrors: true},
	} {
		b, err := p.Encode()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := Parse(b)
		if err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%s: %s is parsed as %v, %v; want %v", name, b, got, err, p)
		}
		if got, want := p.IsZero(), name == "zero"; got != want {
			t.Errorf("%s: IsZero is %v, want %v", name, got, want)
		}
	}
}

// What a server does not understand, or understands in another way than it was
// meant, is refused whole.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ in, want string }{
		"nothing":           {``, "want a JSON object"},
		"null":              {`null`, "want a JSON object"},
		"list":              {`[]`, "want a JSON object"},
		"text":              {`"allow"`, "want a JSON object"},
		"broken":            {`{"allow_ip":`, "malformed JSON"},
		"two":               {`{} {}`, "behind the JSON object"},
		"rest":              {`{}x`, "behind the JSON object"},
		"unknown":           {`{"allow_country":["NZ"]}`, `unknown field "allow_country"`},
		"other case":        {`{"Allow_IP":["192.0.2.1/32"]}`, `unknown field "Allow_IP"`},
		"twice":             {`{"allow_ip":["192.0.2.1/32"],"allow_ip":["0.0.0.0/0"]}`, `"allow_ip" stands twice`},
		"twice escaped":     {`{"allow_ip":["192.0.2.1/32"],"\u0061llow_ip":["0.0.0.0/0"]}`, `"allow_ip" stands twice`},
		"null field":        {`{"allow_ip":null}`, `"allow_ip" is null`},
		"empty list":        {`{"allow_ip":[]}`, "allow_ip is empty"},
		"empty deny":        {`{"deny_ip":[]}`, "deny_ip is empty"},
		"no logins":         {`{"basic_auth":[]}`, "basic_auth is empty"},
		"no keys":           {`{"viewer_keys":[]}`, "viewer_keys is empty"},
		"null in list":      {`{"allow_ip":[null]}`, "allow_ip"},
		"host bits":         {`{"allow_ip":["192.0.2.1/24"]}`, "did you mean 192.0.2.0/24"},
		"mapped":            {`{"allow_ip":["::ffff:192.0.2.1/128"]}`, "write it as the IPv4 address"},
		"bare address":      {`{"deny_ip":["192.0.2.1"]}`, "192.0.2.1"},
		"rate":              {`{"rate":"many"}`, "100/s"},
		"rate of 0":         {`{"rate":"0/s"}`, "100/s"},
		"rate number":       {`{"rate":100}`, "rate"},
		"burst of 0":        {`{"total_rate":"5/s,burst=0"}`, "100/s"},
		"negative body":     {`{"max_body":-1}`, "max_body -1"},
		"fraction":          {`{"max_body":1.5}`, "max_body"},
		"text for body":     {`{"max_body":"10"}`, "max_body"},
		"plain password":    {`{"basic_auth":["alice:sesame"]}`, `"alice" is not one of bcrypt`},
		"dear hash":         {`{"basic_auth":["alice:$2a$31$bmhUqvyEOb23DkZ/NlDNjOdqyQ4qRkIPxD6BuVgCkwk2ArMjEx8ta"]}`, "cost 31: at most 12"},
		"damaged hash":      {`{"basic_auth":["alice:$2a$04$bmhUqvyEOb23DkZ/NlDN-OdqyQ4qRkIPxD6BuVgCkwk2ArMjEx8ta"]}`, "damaged"},
		"user twice":        {`{"basic_auth":["a:` + sesameHash + `","a:` + sesameHash + `"]}`, `user "a" stands twice`},
		"no user":           {`{"basic_auth":[":` + sesameHash + `"]}`, "0 bytes"},
		"control in user":   {`{"basic_auth":["a\nb:` + sesameHash + `"]}`, "printable"},
		"pass without auth": {`{"pass_authorization":true}`, "without basic_auth"},
		"short key":         {`{"viewer_keys":["c2hvcnQ"]}`, "32 bytes"},
		"three keys":        {`{"viewer_keys":["` + strings.Repeat(strings.Repeat("A", 43)+`","`, 2) + strings.Repeat("A", 43) + `"]}`, "3 keys"},
		"no certificate":    {`{"visitor_ca":"none"}`, "no certificate"},
		"a key for one":     {`{"visitor_ca":"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"}`, "only CERTIFICATE"},
		"bad certificate":   {`{"visitor_ca":"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"}`, "malformed certificate"},
		"too long":          {`{"visitor_ca":"` + strings.Repeat("x", MaxSize) + `"}`, "at most 12288"},
	} {
		p, err := Parse([]byte(tt.in))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %s: got %v, %v; want an error with %q", name, tt.in, p, err, tt.want)
		}
		if !p.IsZero() {
			t.Errorf("%s: something of it was applied: %v", name, p)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	var many []netip.Prefix
	for i := range 1000 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32))
	}
	for name, p := range map[string]Policy{
		"empty list":    {AllowIP: []netip.Prefix{}},
		"too many":      {AllowIP: many},
		"invalid":       {DenyIP: []netip.Prefix{{}}},
		"rate":          {Rate: Rate{Count: 1, Per: time.Millisecond, Burst: 1}},
		"negative rate": {TotalRate: Rate{Count: -1, Per: time.Second, Burst: 1}},
		"zero login":    {BasicAuth: []Login{{}}},
		"zero key":      {ViewerKeys: []ViewerKey{{}}},
	} {
		if b, err := p.Encode(); err == nil {
			t.Errorf("%s: got %s, want an error", name, b)
		}
	}
}

func TestCheckTCP(t *testing.T) {
	t.Parallel()
	conns := Policy{AllowIP: prefixes("192.0.2.0/24"), DenyIP: prefixes("192.0.2.1"), Rate: Rate{1, time.Second, 1}, TotalRate: Rate{1, time.Second, 1}}
	if err := conns.CheckTCP(); err != nil {
		t.Errorf("rules about connections: %v", err)
	}
	f := full(t)
	for name, p := range map[string]Policy{
		"max_body":     {MaxBody: 1},
		"basic_auth":   {BasicAuth: f.BasicAuth},
		"viewer_keys":  {ViewerKeys: f.ViewerKeys},
		"visitor_ca":   {VisitorCA: f.VisitorCA},
		"agent_errors": {AgentErrors: true},
	} {
		if err := p.CheckTCP(); err == nil || !strings.HasPrefix(err.Error(), name+":") {
			t.Errorf("%s: %v, want an error that names it", name, err)
		}
	}
}

// Hashes and keys are not for logs.
func TestSecretsDoNotShow(t *testing.T) {
	t.Parallel()
	p := full(t)
	key, _ := p.ViewerKeys[0].MarshalText()
	var log strings.Builder
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "policy", p, "login", p.BasicAuth[0], "key", p.ViewerKeys[0])
	}
	for _, out := range []string{log.String(), fmt.Sprint(p), fmt.Sprintf("%+v %#v %s %x", p, p, p.BasicAuth, p.ViewerKeys)} {
		for _, secret := range []string{sesameHash[7:], string(key), p.ViewerKeys[0].key} {
			if strings.Contains(out, secret) {
				t.Errorf("%q shows %q", out, secret)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	b, err := full(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"allow_ip":["192.0.2.0/24"],"rate":"5/s,burst=9"}`))
	f.Add([]byte(`{"max_body":1,"max_body":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		// What was understood says the same again, and nothing of it is lost.
		again, err := p.Encode()
		if err != nil {
			t.Fatalf("%q was parsed and cannot be encoded: %v", b, err)
		}
		q, err := Parse(again)
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("%q became %q: %v", b, again, err)
		}
		var in, out map[string]any
		json.Unmarshal(b, &in)
		json.Unmarshal(again, &out)
		for name, value := range in {
			if _, kept := out[name]; !kept && value != false && value != 0.0 && value != "" {
				t.Fatalf("%q lost %s", b, name)
			}
		}
		if _, err := NewGuard("web", p); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
	})
}
