package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"adit/admin"
	"adit/ingress"
	"adit/route"
	"adit/tunnel"
)

// maxRouteFile bounds the file with the routes, in bytes.
const maxRouteFile = 8 << 20

// routes are the rules of the operator for who serves which name. They are in
// the table; this is what is beside it.
type routes struct {
	path  string // where they last; empty if they do not
	fixed bool   // they are those of Options.Routes, and change with these alone

	changing sync.Mutex // held during a change

	mu    sync.Mutex           // guards ports
	ports map[string]routePort // by the names of their rules
}

// A routePort is a port that is open for a rule.
type routePort struct {
	name    tunnel.ID // for which the ingress has it
	members []route.Member
	release func()
}

// routeFile is the file's form, which is also that of the API.
type routeFile struct {
	Routes []route.Rule `json:"routes"`
}

// startRoutes begins with the rules of the options, or of the file.
func (s *Server) startRoutes() error {
	s.routes.ports = make(map[string]routePort)
	rules, where := s.opts.Routes, "routes"
	if !s.routes.fixed && s.routes.path != "" {
		var err error
		if rules, err = loadRoutes(s.routes.path); err != nil {
			return fmt.Errorf("server: routes: %w", err)
		}
		where = "routes: " + s.routes.path
	}
	checked, err := s.checkRoutes(rules)
	if err == nil {
		err = s.replaceRoutes(checked, func() error { return nil })
	}
	if err != nil {
		return fmt.Errorf("server: %s: %w", where, err)
	}
	return nil
}

func loadRoutes(path string) ([]route.Rule, error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case len(text) > maxRouteFile:
		return nil, fmt.Errorf("%s has more than %d bytes: correct or remove it", path, maxRouteFile)
	}
	var f routeFile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%s: %w: correct or remove it", path, err)
	}
	return f.Routes, nil
}

// writeRoutes writes the rules beside the file. commit makes that the file, and
// discard takes it back.
func (r *routes) write(rules []route.Rule) (commit func() error, discard func(), err error) {
	if r.path == "" {
		return func() error { return nil }, func() {}, nil
	}
	text, err := json.MarshalIndent(routeFile{rules}, "", "  ")
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(filepath.Dir(r.path), 0o700); err != nil {
		return nil, nil, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(r.path), ".routes-*")
	if err != nil {
		return nil, nil, err
	}
	_, err = tmp.Write(append(text, '\n'))
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(tmp.Name())
		return nil, nil, err
	}
	return func() error { return os.Rename(tmp.Name(), r.path) }, func() { os.Remove(tmp.Name()) }, nil
}

// checkRoutes returns rules with their defaults, or says what is wrong with any
// of them on this server.
func (s *Server) checkRoutes(rules []route.Rule) ([]route.Rule, error) {
	checked, err := route.CheckRules(rules, s.domain)
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, r := range checked {
		switch {
		case r.Kind == route.TLS && s.opts.TLS == nil:
			problems = append(problems, fmt.Errorf("route %q: kind tls: %w", r.Name, errNoTLS))
		case r.Port() != 0 && s.opts.Listen == "" && s.opts.TLS == nil:
			problems = append(problems, fmt.Errorf("route %q: this server is part of another program, and opens no ports", r.Name))
		}
	}
	return checked, errors.Join(problems...)
}

// A routePortError says which rule's port cannot be opened.
type routePortError struct {
	name string
	err  error
}

func (e *routePortError) Error() string { return fmt.Sprintf("route %q: %v", e.name, e.err) }
func (e *routePortError) Unwrap() error { return e.err }

// replaceRoutes puts checked rules in the place of those before. New ports are
// opened first, and what can fail is over before anything changes: commit is the
// last of it. Ports and members that stay are not touched, nor is any visitor who has a
// stream. The caller holds changing.
func (s *Server) replaceRoutes(rules []route.Rule, commit func() error) error {
	opened := make(map[string]routePort)
	undo := func() {
		for _, p := range opened {
			p.release()
		}
	}
	wanted := make(map[string]route.Rule)
	for _, r := range rules {
		if r.Port() == 0 {
			continue
		}
		wanted[r.Name] = r
		if s.routes.has(r) {
			continue
		}
		p, err := s.openRoutePort(r)
		if err != nil {
			undo()
			return &routePortError{r.Name, err}
		}
		opened[r.Name] = p
	}
	if err := commit(); err != nil {
		undo()
		return err
	}
	var closing []func()
	s.routes.mu.Lock()
	for name, p := range opened {
		s.routes.ports[name] = p
	}
	for name, p := range s.routes.ports {
		if r, stays := wanted[name]; stays {
			p.members = r.Members
			s.routes.ports[name] = p
			continue
		}
		delete(s.routes.ports, name)
		closing = append(closing, p.release)
	}
	s.routes.mu.Unlock()
	s.table.SetRules(rules)
	for _, r := range rules {
		if r.Kind == route.HTTP && strings.Contains(r.Name, ".") && !strings.HasPrefix(r.Name, "/") && s.lacksCertificate(r.Name) {
			s.log.Warn("no certificate is for the hostname of a route: visitors with TLS are refused", "host", r.Name)
		}
	}
	for _, release := range closing {
		release()
	}
	return nil
}

// openRoutePort opens a port for a rule, or has a share in it if the agent of a
// member has opened it before.
func (s *Server) openRoutePort(r route.Rule) (routePort, error) {
	door, _ := s.door(r.Kind == route.UDP)
	var first error
	for _, m := range r.Members {
		_, release, err := door.Open(m.ID, r.Port())
		if err == nil {
			return routePort{m.ID, r.Members, release}, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, ingress.ErrPortInUse) {
			break
		}
	}
	return routePort{}, first
}

// has reports whether the port of a rule is open for one.
func (r *routes) has(rule route.Rule) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, have := r.ports[rule.Name]
	return have
}

// portName returns the name for which an ingress has, or is to have, a port
// that an agent binds under an ID: members of a rule share its port. key is what
// route.PortKey returns.
func (s *Server) portName(id tunnel.ID, key string) tunnel.ID {
	s.routes.mu.Lock()
	defer s.routes.mu.Unlock()
	p, ok := s.routes.ports[key]
	if ok && slices.ContainsFunc(p.members, func(m route.Member) bool { return m.ID == id }) {
		return p.name
	}
	return id
}

// RouteSet implements admin.Server.
func (s *Server) RouteSet() admin.RouteSet {
	rules := s.table.Rules()
	set := admin.RouteSet{Routes: rules, Revision: revision(rules), Source: admin.RoutesOfAPI}
	if s.routes.fixed {
		set.Source = admin.RoutesOfConfig
	}
	return set
}

// revision tells one set of rules from another.
func revision(rules []route.Rule) string {
	text, err := json.Marshal(routeFile{rules})
	if err != nil {
		panic(err) // plain values
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// SetRoutes implements admin.Server.
func (s *Server) SetRoutes(rules []route.Rule, of string, dryRun bool) ([]route.Change, error) {
	s.routes.changing.Lock()
	defer s.routes.changing.Unlock()
	checked, err := s.checkRoutes(rules)
	if err != nil {
		return nil, &admin.RouteSetError{Code: admin.RoutesInvalid, Reason: strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	before := s.table.Rules()
	if of != "" && of != revision(before) {
		return nil, &admin.RouteSetError{Code: admin.RoutesChanged, Reason: "the routes have changed meanwhile: look at them again"}
	}
	changes := route.Diff(before, checked)
	switch {
	case dryRun:
		return changes, nil
	case s.routes.fixed:
		return nil, &admin.RouteSetError{Code: admin.RoutesFixed, Reason: "the routes are those of the server's config file: change them there, and reload"}
	case len(changes) == 0:
		return changes, nil
	}
	commit, discard, err := s.routes.write(checked)
	if err != nil {
		return nil, fmt.Errorf("write down the routes: %w", err)
	}
	defer discard()
	if err := s.replaceRoutes(checked, commit); err != nil {
		if pe, ok := errors.AsType[*routePortError](err); ok {
			return nil, &admin.RouteSetError{Code: admin.RoutesPort, Reason: pe.Error()}
		}
		return nil, fmt.Errorf("write down the routes: %w", err)
	}
	return changes, nil
}

// PrepareRoutes looks at other rules for a server whose rules are those of its
// options, for Options.Reload: apply puts them to use. The ports of new ones have
// to be free now; if one is taken before apply, everything stays as it was and
// the log says so.
func (s *Server) PrepareRoutes(rules []route.Rule) (apply func(), err error) {
	checked, err := s.checkRoutes(rules)
	if err != nil {
		return nil, err
	}
	for _, r := range checked {
		if r.Port() == 0 || s.routes.has(r) {
			continue
		}
		p, err := s.openRoutePort(r)
		if err != nil {
			return nil, &routePortError{r.Name, err}
		}
		p.release()
	}
	return func() {
		s.routes.changing.Lock()
		defer s.routes.changing.Unlock()
		changes := route.Diff(s.table.Rules(), checked)
		if len(changes) == 0 {
			return
		}
		if err := s.replaceRoutes(checked, func() error { return nil }); err != nil {
			s.log.Error("routes not changed", "err", err)
			return
		}
		s.log.Info("routes changed", "changes", len(changes), "routes", len(checked))
	}, nil
}
