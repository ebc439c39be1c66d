package route

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"adit/tunnel"
)

// Bounds of what rules may say.
const (
	MaxRules   = 1000
	MaxMembers = 64 // of a rule

	maxPriority   = 1000
	maxWeight     = 1000
	maxName       = 253 // bytes
	maxMemberID   = 255 // bytes: IDs of some dialects are longer than those of ours
	maxCheckPath  = 1024
	maxThreshold  = 10
	minInterval   = time.Second
	maxInterval   = time.Hour
	minTimeout    = 100 * time.Millisecond
	maxTimeout    = time.Minute
	okFrom, okTo  = 200, 399 // statuses that a check takes if it names none
	checkInterval = 5 * time.Second
	checkTimeout  = 2 * time.Second
	threshold     = 2
)

// A Kind is what visitors speak with those whom a rule leads them to.
type Kind string

const (
	HTTP Kind = "http" // the server reads requests
	TCP  Kind = "tcp"  // any bytes, at a port of their own
	TLS  Kind = "tls"  // the upstreams end TLS, and the server cannot read it
	UDP  Kind = "udp"  // datagrams, at a port of their own
)

// Source is the value of Rule.Sticky that keeps a visitor's address with a
// member.
const Source = "source"

// A Rule names the IDs that visitors of a name are led to, and in which order.
// It goes before what agents have bound under the name.
type Rule struct {
	// Name is an ID, or "/" and an ID; a hostname; ":" and a TCP port; or that
	// and "/udp" for a UDP port.
	Name string `json:"name"`

	// Kind is TCP or UDP for ports, and HTTP for other names, if it is empty.
	Kind Kind `json:"kind,omitempty"`

	Members []Member `json:"members"`

	// Sticky is empty or Source: a visitor's address stays with one member of
	// those that have the same priority, as long as that is healthy. Of IPv6
	// addresses the first 64 bits count.
	Sticky string `json:"sticky,omitempty"`

	// Check asks each member's upstream whether it is well; nil does not.
	Check *Check `json:"check,omitempty"`
}

// A Member is an ID, which any number of agents may have bound.
type Member struct {
	ID tunnel.ID `json:"id"`

	// Priority is 1 to 1000, and 1 if it is 0. The lowest number goes first;
	// the next is for when none with that is healthy.
	Priority int `json:"priority"`

	// Weight is 1 to 1000, and 1 if it is 0: of visitors that members with the
	// same priority share, each gets its part.
	Weight int `json:"weight"`
}

// A Check is how upstreams are asked, through the tunnel. What is zero has a
// default.
type Check struct {
	// HTTPPath is what a request asks for. If it is empty, it is enough that
	// the upstream takes a connection.
	HTTPPath string

	// FirstStatus to LastStatus are those of good answers; 200 to 399.
	FirstStatus, LastStatus int

	Interval           time.Duration // between the beginnings of checks; 5 s
	Timeout            time.Duration // of one; 2 s
	Healthy, Unhealthy int           // how many in a row change the health; 2
}

// jsonCheck is a Check as people write it.
type jsonCheck struct {
	HTTP      string `json:"http,omitempty"`
	TCP       bool   `json:"tcp,omitempty"`
	Status    string `json:"status,omitempty"`
	Interval  string `json:"interval,omitempty"`
	Timeout   string `json:"timeout,omitempty"`
	Healthy   int    `json:"healthy,omitempty"`
	Unhealthy int    `json:"unhealthy,omitempty"`
}

// MarshalJSON writes times as text, such as "5s".
func (c Check) MarshalJSON() ([]byte, error) {
	j := jsonCheck{HTTP: c.HTTPPath, TCP: c.HTTPPath == "", Healthy: c.Healthy, Unhealthy: c.Unhealthy}
	if c.HTTPPath != "" && c.FirstStatus != 0 {
		j.Status = statusText(c.FirstStatus, c.LastStatus)
	}
	if c.Interval != 0 {
		j.Interval = c.Interval.String()
	}
	if c.Timeout != 0 {
		j.Timeout = c.Timeout.String()
	}
	return json.Marshal(j)
}

// UnmarshalJSON is the opposite of MarshalJSON.
func (c *Check) UnmarshalJSON(b []byte) error {
	var j jsonCheck
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if (j.HTTP != "") == j.TCP {
		return errors.New(`check: want "http" with a path, or "tcp": true`)
	}
	*c = Check{HTTPPath: j.HTTP, Healthy: j.Healthy, Unhealthy: j.Unhealthy}
	for _, f := range []struct {
		name string
		text string
		to   *time.Duration
	}{{"interval", j.Interval, &c.Interval}, {"timeout", j.Timeout, &c.Timeout}} {
		if f.text == "" {
			continue
		}
		d, err := time.ParseDuration(f.text)
		if err != nil {
			return fmt.Errorf("check: %s %.40q: want a time such as 5s", f.name, f.text)
		}
		*f.to = d
	}
	if j.Status == "" {
		return nil
	}
	if j.HTTP == "" {
		return errors.New("check: status: only a check by http has one")
	}
	var err error
	if c.FirstStatus, c.LastStatus, err = ParseStatus(j.Status); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

// ParseStatus parses a status of HTTP or a range of them, such as "200-299".
func ParseStatus(s string) (first, last int, err error) {
	from, to, ranged := strings.Cut(s, "-")
	first, ferr := strconv.Atoi(from)
	last = first
	var lerr error
	if ranged {
		last, lerr = strconv.Atoi(to)
	}
	if ferr != nil || lerr != nil || first < 100 || last > 599 || first > last {
		return 0, 0, fmt.Errorf("status %.40q: want one of 100 to 599, or a range such as 200-299", s)
	}
	return first, last, nil
}

func statusText(first, last int) string {
	if first == last {
		return strconv.Itoa(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

// CheckRules returns rules with their defaults filled in, in the order of their
// names. domain is as in Options. The error names everything that is wrong,
// each by the name of its rule.
func CheckRules(rules []Rule, domain string) ([]Rule, error) {
	if len(rules) > MaxRules {
		return nil, fmt.Errorf("%d routes: at most %d are allowed", len(rules), MaxRules)
	}
	var problems []error
	seen := make(map[string]bool, len(rules))
	checked := make([]Rule, 0, len(rules))
	for i, r := range rules {
		r, err := CheckRule(r, domain)
		switch {
		case err != nil && r.Name == "":
			err = fmt.Errorf("route %d: %w", i+1, err)
		case err != nil:
			err = fmt.Errorf("route %.80q: %w", r.Name, err)
		case seen[r.Name]:
			err = fmt.Errorf("route %q: there is another one of that name", r.Name)
		}
		problems = append(problems, err)
		seen[r.Name] = true
		checked = append(checked, r)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	slices.SortFunc(checked, func(a, b Rule) int { return strings.Compare(a.Name, b.Name) })
	return checked, nil
}

// CheckRule returns a rule with its defaults filled in, or says what is wrong
// with it.
func CheckRule(r Rule, domain string) (Rule, error) {
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	name, err := checkName(r.Name, domain)
	if err != nil {
		problems = append(problems, err)
	} else {
		r.Name = name
	}
	ofPort := portKind(name)
	switch {
	case r.Kind == "" && ofPort != "":
		r.Kind = ofPort
	case r.Kind == "":
		r.Kind = HTTP
	case r.Kind != HTTP && r.Kind != TCP && r.Kind != TLS && r.Kind != UDP:
		wrong("kind %.40q: http, tcp, tls and udp are allowed", r.Kind)
	case err != nil:
	case ofPort == "" && (r.Kind == TCP || r.Kind == UDP):
		wrong("kind %s: it is for a port such as %q", r.Kind, PortKey(2222, r.Kind == UDP))
	case ofPort != "" && r.Kind != ofPort:
		wrong("kind %s: the port %q is for %s", r.Kind, name, ofPort)
	}
	if r.Kind == UDP && r.Check != nil {
		wrong("check: upstreams of UDP cannot be asked: leave it out")
		return r, errors.Join(problems...)
	}
	if r.Sticky != "" && r.Sticky != Source {
		wrong("sticky %.40q: %s is allowed, or nothing", r.Sticky, Source)
	}
	if r.Members, err = checkMembers(r.Members); err != nil {
		problems = append(problems, err)
	}
	if r.Check != nil {
		c, err := r.Check.check()
		if err != nil {
			problems = append(problems, fmt.Errorf("check: %w", err))
		}
		r.Check = &c
	}
	return r, errors.Join(problems...)
}

// checkName returns a name as rules are kept under it.
func checkName(name, domain string) (string, error) {
	if port, ok := strings.CutPrefix(name, ":"); ok {
		digits, udp := strings.CutSuffix(port, udpSuffix)
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || n == 0 {
			return "", fmt.Errorf("name %.40q: want \":\" and a port of 1 to 65535, and behind it \"/udp\" for one of UDP", name)
		}
		return PortKey(uint16(n), udp), nil
	}
	id, isID := strings.CutPrefix(name, "/")
	if !isID && strings.Contains(name, ".") {
		return checkHostname(name, domain)
	}
	if id == "" || len(id) > maxMemberID || strings.ContainsFunc(id, notInID) {
		return "", errName(name)
	}
	if _, err := tunnel.ParseID(id); err != nil && strings.Contains(id, ".") {
		return "/" + id, nil // else it would be a hostname
	}
	return id, nil
}

func checkHostname(name, domain string) (string, error) {
	host := strings.ToLower(strings.TrimSuffix(name, "."))
	if id, ok := strings.CutSuffix(host, "."+domain); ok && domain != "" {
		return "", fmt.Errorf("name %.80q: below the domain each id has a hostname: name the id, %q", name, id)
	}
	if _, err := netip.ParseAddr(host); err == nil || len(host) > maxName || host == domain || !isHostname(host) || strings.ContainsFunc(host, notInID) {
		return "", errName(name)
	}
	return host, nil
}

func errName(name string) error {
	return fmt.Errorf("name %.80q: want an id, a hostname, or a port such as \":2222\" or \":53/udp\"", name)
}

// portKind returns the kind of a checked name that is a port, and otherwise
// nothing.
func portKind(name string) Kind {
	switch {
	case !strings.HasPrefix(name, ":"):
		return ""
	case strings.HasSuffix(name, udpSuffix):
		return UDP
	}
	return TCP
}

// notInID tells what no dialect has in an ID.
func notInID(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r >= 0x7f }

func checkMembers(members []Member) ([]Member, error) {
	if len(members) == 0 {
		return nil, errors.New("members: want at least one, such as {id: web}")
	}
	if len(members) > MaxMembers {
		return nil, fmt.Errorf("%d members: at most %d are allowed", len(members), MaxMembers)
	}
	var problems []error
	members = slices.Clone(members)
	for i := range members {
		m := &members[i]
		if m.Priority == 0 {
			m.Priority = 1
		}
		if m.Weight == 0 {
			m.Weight = 1
		}
		switch {
		case m.ID == "" || len(m.ID) > maxMemberID || strings.ContainsFunc(string(m.ID), notInID):
			problems = append(problems, fmt.Errorf("member %d: id %.80q: want the id of an agent's tunnel", i+1, m.ID))
		case slices.ContainsFunc(members[:i], func(o Member) bool { return o.ID == m.ID }):
			problems = append(problems, fmt.Errorf("member %q: it is named twice", m.ID))
		case m.Priority < 1 || m.Priority > maxPriority:
			problems = append(problems, fmt.Errorf("member %q: priority %d: 1 to %d are allowed", m.ID, m.Priority, maxPriority))
		case m.Weight < 1 || m.Weight > maxWeight:
			problems = append(problems, fmt.Errorf("member %q: weight %d: 1 to %d are allowed", m.ID, m.Weight, maxWeight))
		}
	}
	return members, errors.Join(problems...)
}

// check returns c with its defaults filled in.
func (c Check) check() (Check, error) {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	if c.HTTPPath != "" {
		def(&c.FirstStatus, okFrom)
		def(&c.LastStatus, okTo)
	}
	if c.Interval == 0 {
		c.Interval = checkInterval
	}
	if c.Timeout == 0 {
		c.Timeout = min(checkTimeout, c.Interval)
	}
	def(&c.Healthy, threshold)
	def(&c.Unhealthy, threshold)
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }
	switch {
	case c.HTTPPath != "" && (c.HTTPPath[0] != '/' || len(c.HTTPPath) > maxCheckPath || strings.ContainsFunc(c.HTTPPath, bad)):
		return c, fmt.Errorf("http %.80q: want a path such as /healthz", c.HTTPPath)
	case c.HTTPPath == "" && (c.FirstStatus != 0 || c.LastStatus != 0):
		return c, errors.New("status: only a check by http has one")
	case c.Interval < minInterval || c.Interval > maxInterval:
		return c, fmt.Errorf("interval %v: %v to %v are allowed", c.Interval, minInterval, maxInterval)
	case c.Timeout < minTimeout || c.Timeout > maxTimeout || c.Timeout > c.Interval:
		return c, fmt.Errorf("timeout %v: %v to %v are allowed, and not more than the interval", c.Timeout, minTimeout, maxTimeout)
	case c.Healthy < 1 || c.Healthy > maxThreshold:
		return c, fmt.Errorf("healthy %d: 1 to %d are allowed", c.Healthy, maxThreshold)
	case c.Unhealthy < 1 || c.Unhealthy > maxThreshold:
		return c, fmt.Errorf("unhealthy %d: 1 to %d are allowed", c.Unhealthy, maxThreshold)
	}
	return c, nil
}

// Port returns the port of a rule of the kind TCP or UDP, or 0.
func (r Rule) Port() uint16 {
	digits, ok := strings.CutPrefix(strings.TrimSuffix(r.Name, udpSuffix), ":")
	if !ok {
		return 0
	}
	n, _ := strconv.ParseUint(digits, 10, 16)
	return uint16(n)
}

// equal reports whether two checked rules are the same.
func (r Rule) equal(o Rule) bool {
	return r.Name == o.Name && r.Kind == o.Kind && r.Sticky == o.Sticky && slices.Equal(r.Members, o.Members) && r.Check.equal(o.Check)
}

func (c *Check) equal(o *Check) bool {
	if c == nil || o == nil {
		return c == o
	}
	return *c == *o
}
