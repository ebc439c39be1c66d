package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// grants is a Scope as it is written: in the claim "adit" of tokens, and in
// files. It allows nothing of a kind that it does not list.
type grants struct {
	IDs       []string `json:"ids,omitempty" yaml:"ids"`
	Hostnames []string `json:"hostnames,omitempty" yaml:"hostnames"`
	TCPPorts  []string `json:"tcp_ports,omitempty" yaml:"tcp_ports"`
	UDPPorts  []string `json:"udp_ports,omitempty" yaml:"udp_ports"`
	Forward   []string `json:"forward,omitempty" yaml:"forward"`
}

// parseGrants parses the claim "adit"; without one nothing is allowed. It
// refuses fields that are not known: what this version does not know may have
// been meant to narrow the rest.
func parseGrants(b json.RawMessage) (Scope, error) {
	if len(b) == 0 {
		return Scope{}, nil
	}
	var g grants
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&g); err != nil {
		return Scope{}, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return g.scope()
}

// scope checks the grants.
func (g grants) scope() (Scope, error) {
	s := Scope{IDs: g.IDs, Hostnames: g.Hostnames}
	var err error
	if s.Ports, err = ParsePortRanges(g.TCPPorts); err != nil {
		return Scope{}, err
	}
	if s.UDPPorts, err = ParsePortRanges(g.UDPPorts); err != nil {
		return Scope{}, err
	}
	for _, f := range g.Forward {
		r, err := ParseForwardRule(f)
		if err != nil {
			return Scope{}, err
		}
		s.Forward = append(s.Forward, r)
	}
	return s, s.Check()
}

func grantsOf(s Scope) grants {
	g := grants{IDs: s.IDs, Hostnames: s.Hostnames, TCPPorts: PortTexts(s.Ports), UDPPorts: PortTexts(s.UDPPorts)}
	for _, r := range s.Forward {
		g.Forward = append(g.Forward, r.String())
	}
	return g
}

// facts are what a credential says of its holder, for rules to look at.
type facts struct {
	certificate bool                // it is a certificate, not a token
	values      map[string][]string // by field of a certificate, or claim of a token
}

// A grantRule allows something to the credentials that it matches.
type grantRule struct {
	certificate bool
	match       map[string]string // pattern by field; all have to match
	scope       Scope
}

// grantRules are the rules of a grants file. What no rule allows is forbidden.
type grantRules []grantRule

// scope returns what the rules allow together.
func (g grantRules) scope(f facts) (s Scope) {
	for _, r := range g {
		if r.matches(f) {
			s.IDs = append(s.IDs, r.scope.IDs...)
			s.Hostnames = append(s.Hostnames, r.scope.Hostnames...)
			s.Ports = append(s.Ports, r.scope.Ports...)
			s.UDPPorts = append(s.UDPPorts, r.scope.UDPPorts...)
			s.Forward = append(s.Forward, r.scope.Forward...)
		}
	}
	return s
}

func (r grantRule) matches(f facts) bool {
	if r.certificate != f.certificate || len(r.match) == 0 {
		return false
	}
	for field, pattern := range r.match {
		if !slices.ContainsFunc(f.values[field], func(v string) bool { return match(pattern, v) }) {
			return false
		}
	}
	return true
}

// certificateFields are what rules about certificates may look at.
var certificateFields = []string{"cn", "dns", "email", "ou", "uri"}

// grantsFile is a grants file as it is written.
type grantsFile struct {
	Grants []struct {
		Certificate map[string]string `yaml:"certificate"`
		JWT         map[string]string `yaml:"jwt"`
		grants      `yaml:",inline"`
	} `yaml:"grants"`
}

const maxGrantsFile = 1 << 20 // bytes

// loadGrants reads a grants file. Nobody but the user may be able to change it.
func loadGrants(path string) (grantRules, error) {
	b, err := readFile(path, maxGrantsFile, checkUnwritable)
	if err != nil {
		return nil, fmt.Errorf("grants file %s: %w", path, err)
	}
	rules, err := parseGrantRules(b)
	if err != nil {
		return nil, fmt.Errorf("grants file %s: %w", path, err)
	}
	return rules, nil
}

// parseGrantRules parses a grants file, all of which has to be right.
func parseGrantRules(b []byte) (grantRules, error) {
	var file grantsFile
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	switch err := d.Decode(&file); {
	case err == io.EOF:
		return nil, errors.New(`it is empty: want a list "grants"`)
	case err != nil:
		return nil, errors.New(strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " "))
	}
	if err := d.Decode(new(any)); err != io.EOF {
		return nil, errors.New("it has more than one document: want one")
	}
	if len(file.Grants) == 0 {
		return nil, errors.New(`it has no rules: want a list "grants"`)
	}
	rules := make(grantRules, len(file.Grants))
	var problems []error
	for i, g := range file.Grants {
		r := grantRule{certificate: g.Certificate != nil, match: g.JWT}
		if r.certificate {
			r.match = g.Certificate
		}
		err := checkMatch(g.Certificate, g.JWT)
		if err == nil {
			r.scope, err = g.grants.scope()
		}
		if err == nil && r.scope.IsZero() {
			err = errors.New("it allows nothing: want ids, hostnames, tcp_ports, udp_ports or forward")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("rule %d: %w", i+1, err))
		}
		rules[i] = r
	}
	return rules, errors.Join(problems...)
}

func checkMatch(certificate, jwt map[string]string) error {
	if (len(certificate) == 0) == (len(jwt) == 0) {
		return errors.New("want either certificate or jwt, with at least one field to match, such as cn: web-1 or sub: web-1")
	}
	for field := range certificate {
		if !slices.Contains(certificateFields, field) {
			return fmt.Errorf("certificate has no field %q: %s are allowed", field, strings.Join(certificateFields, ", "))
		}
	}
	for _, m := range []map[string]string{certificate, jwt} {
		for _, field := range slices.Sorted(maps.Keys(m)) {
			if p := m[field]; p == "" || len(p) > maxPattern || !isPrintable(p) {
				return fmt.Errorf("%s %.80q: want a pattern of 1 to %d printable characters", field, p, maxPattern)
			}
		}
	}
	return nil
}

// isPrintable reports whether s is UTF-8 without characters that do not print.
func isPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
