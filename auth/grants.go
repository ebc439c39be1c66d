package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
)

// grants is a Scope as it is written: in the claim "adit" of tokens, and in
// files. It allows nothing of a kind that it does not list.
type grants struct {
	IDs       []string `json:"ids,omitempty"`
	Hostnames []string `json:"hostnames,omitempty"`
	TCPPorts  []string `json:"tcp_ports,omitempty"`
	Forward   []string `json:"forward,omitempty"`
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
	for _, p := range g.TCPPorts {
		r, err := ParsePortRange(p)
		if err != nil {
			return Scope{}, err
		}
		s.Ports = append(s.Ports, r)
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
	g := grants{IDs: s.IDs, Hostnames: s.Hostnames}
	for _, r := range s.Ports {
		g.TCPPorts = append(g.TCPPorts, r.String())
	}
	for _, r := range s.Forward {
		g.Forward = append(g.Forward, r.String())
	}
	return g
}
