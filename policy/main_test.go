package policy

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// guard returns a guard of the ID web.
func guard(t testing.TB, p Policy) *Guard {
	t.Helper()
	g, err := NewGuard("web", p)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// request returns a GET of / by a visitor at 192.0.2.1 with fields, which are
// names and values in turn.
func request(fields ...string) *Request {
	h := http.Header{}
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return &Request{
		Visitor: netip.MustParseAddr("192.0.2.1"),
		Method:  "GET", Target: "/", Path: "/",
		Values: h.Values,
	}
}

// code returns the code of a refusal, and "" for nil.
func code(t testing.TB, err error) Code {
	t.Helper()
	if err == nil {
		return ""
	}
	var d *Denied
	if !errors.As(err, &d) {
		t.Fatalf("error %v (%T), want a *Denied", err, err)
	}
	return d.Code
}

// admit returns the code with which g refuses r.
func admit(t testing.TB, g *Guard, r *Request) Code {
	t.Helper()
	_, err := g.Admit(context.Background(), r)
	return code(t, err)
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		p, err := ParsePrefix(s)
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}
