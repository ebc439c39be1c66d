// Package policy decides which visitors may enter. A Policy is a set of rules,
// which an agent sends along when it binds a name, and an operator sets for a
// whole server; a Guard enforces one.
//
//	p, err := policy.Parse(binding.Policy)
//	...
//	g, err := policy.NewGuard("web", p)
//	...
//	pass, err := g.Admit(ctx, &policy.Request{Visitor: addr, ...})
//
// Every rule has to let the visitor in: a policy with a list of addresses and
// with logins asks for both. Rules that a server does not know are refused when
// the name is bound, so that nobody relies on one that is not enforced.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
)

// MaxSize is the most that a policy's JSON takes, in bytes. It leaves room for
// the rest of a binding in a call of the native protocol.
const MaxSize = 12 << 10

// A Policy is the rules for the visitors of one name, or of a server. The zero
// Policy lets everybody in. Its JSON form is what Parse reads; it holds hashes
// and keys, and is not for logs.
type Policy struct {
	// AllowIP are the only addresses that may enter; nil means all. DenyIP
	// may not, whatever AllowIP says. An address that is not known, as a
	// trusted proxy may leave it, passes neither list.
	AllowIP []netip.Prefix `json:"allow_ip,omitempty"`
	DenyIP  []netip.Prefix `json:"deny_ip,omitempty"`

	// Rate bounds the requests of one visitor, or for TCP and TLS its
	// connections; TotalRate those of all visitors together. A visitor is an
	// address, and for IPv6 a network of 64 bits.
	Rate      Rate `json:"rate,omitzero"`
	TotalRate Rate `json:"total_rate,omitzero"`

	// MaxBody is the longest body of a request in bytes; 0 means any. For
	// HTTP alone, as is all that follows.
	MaxBody int64 `json:"max_body,omitempty"`

	// BasicAuth are the logins that may enter (RFC 7617); nil asks for none.
	// The Authorization field that carries one is not passed on unless
	// PassAuthorization is set.
	BasicAuth         []Login `json:"basic_auth,omitempty"`
	PassAuthorization bool    `json:"pass_authorization,omitempty"`

	// ViewerKeys are the keys of viewer tokens, one of which a visitor must
	// have; nil asks for none. There are two at most: the one in use, and
	// that before or after it.
	ViewerKeys []ViewerKey `json:"viewer_keys,omitempty"`

	// VisitorCA holds the certificates, in PEM, of the authorities of which a
	// visitor must show a certificate; empty asks for none.
	VisitorCA string `json:"visitor_ca,omitempty"`

	// AgentErrors says that the agent answers some requests by itself, and
	// that its Adit-Error field is its own and not the upstream's.
	AgentErrors bool `json:"agent_errors,omitempty"`
}

// IsZero reports whether p has no rule.
func (p Policy) IsZero() bool { return reflect.ValueOf(p).IsZero() }

// LogValue implements slog.LogValuer. It shows no hash and no key.
func (p Policy) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(p)) }

// Encode returns the JSON that Parse reads, or what CheckHTTP says.
func (p Policy) Encode() ([]byte, error) {
	if err := p.CheckHTTP(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(p)
	if err == nil && len(b) > MaxSize {
		err = fmt.Errorf("policy takes %d bytes: at most %d are allowed; shorten its lists", len(b), MaxSize)
	}
	return b, err
}

// Parse reads the JSON form of a policy, and checks it with CheckHTTP. Fields
// that are not known, stand twice or are null are errors: whoever sent them
// relies on them.
func Parse(b []byte) (Policy, error) {
	var p Policy
	if len(b) > MaxSize {
		return p, fmt.Errorf("policy has %d bytes: at most %d are allowed", len(b), MaxSize)
	}
	if err := checkObject(b); err != nil {
		return Policy{}, fmt.Errorf("policy: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return Policy{}, fmt.Errorf("policy: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if err := p.CheckHTTP(); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// checkObject refuses what package json lets pass: anything but one object,
// fields that stand twice or in other letters than theirs, and null.
func checkObject(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("want a JSON object")
	}
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return errors.New("malformed JSON")
		}
		name := t.(string) // a key, or Token fails
		if seen[name] {
			return fmt.Errorf("field %.40q stands twice", name)
		}
		seen[name] = true
		if name != strings.ToLower(name) {
			return fmt.Errorf("unknown field %.40q", name)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return errors.New("malformed JSON")
		}
		if string(v) == "null" {
			return fmt.Errorf("field %.40q is null: leave it out", name)
		}
	}
	if _, err := d.Token(); err != nil {
		return errors.New("malformed JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is something behind the JSON object")
	}
	return nil
}

// Limits of a policy's lists.
const (
	maxPrefixes = 1024
	maxLogins   = 100
	maxKeys     = 2
)

// CheckHTTP reports what is wrong with p as the policy of HTTP visitors: the
// field, the value and what is allowed.
func (p Policy) CheckHTTP() error {
	if err := p.checkConn(); err != nil {
		return err
	}
	switch {
	case p.MaxBody < 0:
		return fmt.Errorf("max_body %d: want a number of bytes above 0", p.MaxBody)
	case p.BasicAuth != nil && len(p.BasicAuth) == 0:
		return errors.New("basic_auth is empty: nobody could enter; leave it out to ask for no login")
	case len(p.BasicAuth) > maxLogins:
		return fmt.Errorf("basic_auth has %d logins: at most %d are allowed", len(p.BasicAuth), maxLogins)
	case p.PassAuthorization && p.BasicAuth == nil:
		return errors.New("pass_authorization is set without basic_auth: Authorization is passed on anyway")
	case p.ViewerKeys != nil && len(p.ViewerKeys) == 0:
		return errors.New("viewer_keys is empty: nobody could enter; leave it out to ask for no token")
	case len(p.ViewerKeys) > maxKeys:
		return fmt.Errorf("viewer_keys has %d keys: at most %d are allowed", len(p.ViewerKeys), maxKeys)
	}
	users := make(map[string]bool)
	for _, l := range p.BasicAuth {
		if err := l.check(); err != nil {
			return fmt.Errorf("basic_auth: %w", err)
		}
		if users[l.user] {
			return fmt.Errorf("basic_auth: the user %q stands twice", l.user)
		}
		users[l.user] = true
	}
	for _, k := range p.ViewerKeys {
		if len(k.key) != viewerKeySize {
			return errors.New("viewer_keys: a key is empty")
		}
	}
	if p.VisitorCA != "" {
		if _, err := parseCA(p.VisitorCA); err != nil {
			return fmt.Errorf("visitor_ca: %w", err)
		}
	}
	return nil
}

// CheckTCP reports what is wrong with p as the policy of visitors whose
// connections are passed on unread, over TCP or TLS: in addition to CheckHTTP,
// rules about requests.
func (p Policy) CheckTCP() error {
	if err := p.CheckHTTP(); err != nil {
		return err
	}
	for _, rule := range []struct {
		name string
		set  bool
	}{
		{"max_body", p.MaxBody != 0},
		{"basic_auth", p.BasicAuth != nil},
		{"viewer_keys", p.ViewerKeys != nil},
		{"visitor_ca", p.VisitorCA != ""},
		{"agent_errors", p.AgentErrors},
	} {
		if rule.set {
			return fmt.Errorf("%s: only HTTP has this rule", rule.name)
		}
	}
	return nil
}

func (p Policy) checkConn() error {
	if err := checkPrefixes("allow_ip", p.AllowIP); err != nil {
		return err
	}
	if err := checkPrefixes("deny_ip", p.DenyIP); err != nil {
		return err
	}
	if err := p.Rate.check(); err != nil {
		return fmt.Errorf("rate: %w", err)
	}
	if err := p.TotalRate.check(); err != nil {
		return fmt.Errorf("total_rate: %w", err)
	}
	return nil
}
