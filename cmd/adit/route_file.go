package main

import (
	"github.com/spf13/pflag"

	"adit/config"
	"adit/route"
	"adit/tunnel"
)

// routesKey is the key of the routes, in the file of a server and in one for
// adit route.
const routesKey = "routes"

// routesIn returns the routes of a file, in which each problem says where it is.
func routesIn(list *config.Setting) ([]route.Rule, error) {
	sections, err := list.Sections()
	problems := []error{err}
	rules := make([]route.Rule, 0, len(sections))
	seen := make(map[string]bool)
	for _, s := range sections {
		r, err := routeIn(s)
		if err == nil && seen[r.Name] {
			err = s.Problem("route %q: there is another one of that name", r.Name)
		}
		seen[r.Name] = true
		problems = append(problems, err)
		rules = append(rules, r)
	}
	return rules, config.Join(problems...)
}

// routeIn returns one route.
func routeIn(s *config.Section) (r route.Rule, err error) {
	fl := pflag.NewFlagSet("route", pflag.ContinueOnError)
	kind := fl.String("kind", "", "")
	fl.StringVar(&r.Name, "name", "", "")
	fl.StringVar(&r.Sticky, "sticky", "", "")
	problems := []error{s.Apply(fl, "members", "check")}
	r.Kind = route.Kind(*kind)
	if list := s.Setting("members"); list != nil {
		sections, err := list.Sections()
		problems = append(problems, err)
		for _, ms := range sections {
			m, err := memberIn(ms)
			problems = append(problems, err)
			r.Members = append(r.Members, m)
		}
	}
	if st := s.Setting("check"); st != nil {
		cs, err := st.Section()
		if err == nil {
			r.Check, err = checkIn(cs)
		}
		problems = append(problems, err)
	}
	if err := config.Join(problems...); err != nil {
		return r, err
	}
	r, err = route.CheckRule(r, "")
	if err != nil {
		return r, s.Problem("route %.80q: %v", r.Name, err)
	}
	return r, nil
}

func memberIn(s *config.Section) (m route.Member, err error) {
	fl := pflag.NewFlagSet("member", pflag.ContinueOnError)
	id := fl.String("id", "", "")
	fl.IntVar(&m.Priority, "priority", 1, "")
	fl.IntVar(&m.Weight, "weight", 1, "")
	err = s.Apply(fl)
	m.ID = tunnel.ID(*id)
	for _, n := range []struct {
		name  string
		value int
	}{{"priority", m.Priority}, {"weight", m.Weight}} {
		if n.value == 0 && err == nil { // for CheckRule it would be the default
			err = s.Problem("%s 0: 1 to 1000 are allowed", n.name)
		}
	}
	return m, err
}

func checkIn(s *config.Section) (*route.Check, error) {
	fl := pflag.NewFlagSet("check", pflag.ContinueOnError)
	c := &route.Check{}
	fl.StringVar(&c.HTTPPath, "http", "", "")
	tcp := fl.Bool("tcp", false, "")
	status := fl.String("status", "", "")
	fl.DurationVar(&c.Interval, "interval", 0, "")
	fl.DurationVar(&c.Timeout, "timeout", 0, "")
	fl.IntVar(&c.Healthy, "healthy", 0, "")
	fl.IntVar(&c.Unhealthy, "unhealthy", 0, "")
	if err := s.Apply(fl); err != nil {
		return nil, err
	}
	if (c.HTTPPath != "") == *tcp {
		return nil, s.Problem("check: want \"http:\" with a path, or \"tcp: true\"")
	}
	if *status != "" {
		var err error
		if c.FirstStatus, c.LastStatus, err = route.ParseStatus(*status); err != nil {
			return nil, s.Problem("check: %v", err)
		}
	}
	return c, nil
}

// exampleRoutes is what adit config example shows of the routes.
const exampleRoutes = `
# Names that several agents serve, and in which order; see docs/failover.md. With this key, even
# with an empty list, adit route set changes nothing.
#routes:
#  - name: web               # an id, a hostname, or a port: ":2222", ":53/udp"
#    kind: http              # or tcp or udp for a port, or tls
#    members:
#      - {id: web-home, priority: 1, weight: 2}
#      - {id: web-office, priority: 2}
#    sticky: source
#    check: {http: /healthz, status: 200-299, interval: 5s, timeout: 2s, healthy: 2, unhealthy: 2}
`

// A configRoutes is the routes of a server's config file.
type configRoutes struct {
	given bool
	rules []route.Rule
}

// read takes the routes out of a file, if it has any.
func (c *configRoutes) read(top *config.Section) (err error) {
	if list := top.Setting(routesKey); list != nil {
		c.given = true
		if c.rules, err = routesIn(list); err != nil {
			c.rules = nil // they are not to be looked at again
		}
	}
	return err
}
