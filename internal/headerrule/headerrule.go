// Package headerrule sets and removes header fields, as a user asks for it.
//
//	rules, err := headerrule.New([]string{"X-Frame-Options: DENY"}, []string{"Server"})
//	...
//	rules.Apply(resp.Header)
//
// What says where a message ends, for whom it is and who sent it is not the
// user's to set.
package headerrule

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"adit/internal/http1"
)

const (
	maxRules = 64
	maxField = 8 << 10 // bytes of name and value
)

// Rules are what is done to each header. The zero Rules do nothing.
type Rules struct {
	set    []field
	remove []string // canonical
}

type field struct{ name, value string }

// New returns rules that remove the fields whose names are in remove, and then
// set those of set, each "Name: value". A Set-Cookie is added to those that are
// there; any other field replaces them.
func New(set, remove []string) (Rules, error) {
	var r Rules
	if n := len(set) + len(remove); n > maxRules {
		return r, fmt.Errorf("%d header rules: at most %d are allowed", n, maxRules)
	}
	for _, s := range set {
		f, err := parse(s)
		if err != nil {
			return Rules{}, err
		}
		r.set = append(r.set, f)
	}
	for _, name := range remove {
		if err := removable(name); err != nil {
			return Rules{}, err
		}
		r.remove = append(r.remove, textproto.CanonicalMIMEHeaderKey(name))
	}
	return r, nil
}

// IsZero reports whether the rules do nothing.
func (r Rules) IsZero() bool { return r.set == nil && r.remove == nil }

// Apply changes h.
func (r Rules) Apply(h http.Header) {
	for _, name := range r.remove {
		delete(h, name)
	}
	for _, f := range r.set {
		if f.name == "Set-Cookie" {
			h.Add(f.name, f.value)
			continue
		}
		h[f.name] = []string{f.value}
	}
}

// parse parses "Name: value". Its errors name the field and not the value, which
// may be a secret.
func parse(s string) (field, error) {
	name, value, ok := strings.Cut(s, ":")
	if !ok {
		return field{}, fmt.Errorf("header rule without ':': want a field such as %q", "X-Frame-Options: DENY")
	}
	value = strings.Trim(value, " \t")
	if !http1.IsToken(name) {
		return field{}, fmt.Errorf("header field %.40q: a name has letters, digits and '-', and no space before ':'", name)
	}
	if !http1.IsValue(value) {
		return field{}, fmt.Errorf("header field %s: its value has a control character", name)
	}
	if len(s) > maxField {
		return field{}, fmt.Errorf("header field %s has %d bytes: at most %d are allowed", name, len(s), maxField)
	}
	switch http1.KindOf([]byte(name)) {
	case http1.Other, http1.Accept, http1.Date, http1.Location, http1.SetCookie:
		return field{textproto.CanonicalMIMEHeaderKey(name), value}, nil
	case http1.Host:
		return field{}, fmt.Errorf("header field %s: it says for whom a request is; see --host-header", name)
	case http1.Forwarded, http1.ForwardedFor, http1.ForwardedProto, http1.ForwardedHost, http1.ForwardedOther:
		return field{}, fmt.Errorf("header field %s: it says who the visitor is, and only the server knows", name)
	}
	return field{}, fmt.Errorf("header field %s: it is for one connection, or adit's own, and cannot be set", name)
}

func removable(name string) error {
	if !http1.IsToken(name) {
		return fmt.Errorf("header field %.40q: a name has letters, digits and '-'", name)
	}
	switch http1.KindOf([]byte(name)) {
	case http1.Other, http1.Accept, http1.Date, http1.Location, http1.SetCookie,
		http1.Forwarded, http1.ForwardedFor, http1.ForwardedProto, http1.ForwardedHost, http1.ForwardedOther:
		return nil
	}
	return fmt.Errorf("header field %s: it says where a message ends or for whom it is, and cannot be removed", name)
}
