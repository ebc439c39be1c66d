package route_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"adit/route"
	"adit/tunnel"
)

func TestCheckRules(t *testing.T) {
	t.Parallel()
	members := []route.Member{{ID: "a"}}
	with := func(c route.Check) route.Rule { return route.Rule{Name: "web", Members: members, Check: &c} }
	many := make([]route.Member, route.MaxMembers+1)
	for _, tt := range []struct {
		what string
		rule route.Rule
		name string // as it is kept; empty if err is set
		err  string
	}{
		{"id", route.Rule{Name: "web", Members: members}, "web", ""},
		{"id with slash", route.Rule{Name: "/web", Members: members}, "web", ""},
		{"id that looks like a hostname", route.Rule{Name: "/a.b", Members: members}, "/a.b", ""},
		{"id that agents cannot have", route.Rule{Name: "www", Members: members}, "www", ""},
		{"hostname", route.Rule{Name: "WWW.example.org.", Members: members}, "www.example.org", ""},
		{"hostname for tls", route.Rule{Name: "www.example.org", Kind: route.TLS, Members: members}, "www.example.org", ""},
		{"port", route.Rule{Name: ":2222", Members: members}, ":2222", ""},
		{"check", with(route.Check{HTTPPath: "/"}), "web", ""},
		{"no name", route.Rule{Members: members}, "", `route 1: name "": want an id`},
		{"space", route.Rule{Name: "a b", Members: members}, "", `route "a b": name "a b": want an id`},
		{"address", route.Rule{Name: "192.0.2.1", Members: members}, "", "want an id"},
		{"below the domain", route.Rule{Name: "web.example.com", Members: members}, "", `name the id, "web"`},
		{"the domain", route.Rule{Name: "example.com", Members: members}, "", "want an id"},
		{"port 0", route.Rule{Name: ":0", Members: members}, "", "a port of 1 to 65535"},
		{"port too large", route.Rule{Name: ":65536", Members: members}, "", "a port of 1 to 65535"},
		{"kind", route.Rule{Name: "web", Kind: "sctp", Members: members}, "", `kind "sctp": http, tcp, tls and udp are allowed`},
		{"udp port", route.Rule{Name: ":053/udp", Members: members}, ":53/udp", ""},
		{"udp port 0", route.Rule{Name: ":0/udp", Members: members}, "", "a port of 1 to 65535"},
		{"port of another protocol", route.Rule{Name: ":53/sctp", Members: members}, "", "a port of 1 to 65535"},
		{"udp without port", route.Rule{Name: "web", Kind: route.UDP, Members: members}, "", `kind udp: it is for a port such as ":2222/udp"`},
		{"tcp port for udp", route.Rule{Name: ":53", Kind: route.UDP, Members: members}, "", `the port ":53" is for tcp`},
		{"udp port for tcp", route.Rule{Name: ":53/udp", Kind: route.TCP, Members: members}, "", `the port ":53/udp" is for udp`},
		{"udp with check", route.Rule{Name: ":53/udp", Check: new(route.Check), Members: members}, "", "check: upstreams of UDP cannot be asked"},
		{"port for http", route.Rule{Name: ":80", Kind: route.HTTP, Members: members}, "", "kind http"},
		{"tcp without port", route.Rule{Name: "web", Kind: route.TCP, Members: members}, "", "kind tcp"},
		{"sticky", route.Rule{Name: "web", Sticky: "cookie", Members: members}, "", `sticky "cookie"`},
		{"no members", route.Rule{Name: "web"}, "", "members: want at least one"},
		{"too many members", route.Rule{Name: "web", Members: many}, "", "65 members: at most 64"},
		{"member without id", route.Rule{Name: "web", Members: []route.Member{{}}}, "", "member 1: id"},
		{"member twice", route.Rule{Name: "web", Members: []route.Member{{ID: "a"}, {ID: "a"}}}, "", `member "a": it is named twice`},
		{"priority", route.Rule{Name: "web", Members: []route.Member{{ID: "a", Priority: -1}}}, "", "priority -1: 1 to 1000"},
		{"weight", route.Rule{Name: "web", Members: []route.Member{{ID: "a", Weight: 1001}}}, "", "weight 1001: 1 to 1000"},
		{"check path", with(route.Check{HTTPPath: "healthz"}), "", `check: http "healthz": want a path`},
		{"check path with line", with(route.Check{HTTPPath: "/\r\nX: y"}), "", "want a path"},
		{"check status of tcp", with(route.Check{FirstStatus: 200, LastStatus: 200}), "", "only a check by http has one"},
		{"check interval", with(route.Check{Interval: time.Millisecond}), "", "interval 1ms: 1s to 1h0m0s"},
		{"check timeout", with(route.Check{Interval: time.Second, Timeout: 2 * time.Second}), "", "not more than the interval"},
		{"check threshold", with(route.Check{Unhealthy: 11}), "", "unhealthy 11: 1 to 10"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			got, err := route.CheckRules([]route.Rule{tt.rule}, "example.com")
			switch {
			case tt.err == "" && err != nil:
				t.Errorf("got error %v, want none", err)
			case tt.err == "" && got[0].Name != tt.name:
				t.Errorf("got name %q, want %q", got[0].Name, tt.name)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("got error %v, want one with %q", err, tt.err)
			}
		})
	}
	both := []route.Rule{{Name: "web", Members: members}, {Name: "/web", Members: members}}
	if _, err := route.CheckRules(both, ""); err == nil || !strings.Contains(err.Error(), "another one of that name") {
		t.Errorf("got error %v for one name twice, want that it is", err)
	}
}

// What CheckRules has filled in comes back through JSON, and so through a file.
func TestRulesInJSON(t *testing.T) {
	t.Parallel()
	rules, err := route.CheckRules([]route.Rule{
		{Name: "web", Sticky: route.Source, Members: []route.Member{{ID: "a"}, {ID: "b", Priority: 2, Weight: 3}}, Check: &route.Check{HTTPPath: "/", LastStatus: 299}},
		{Name: ":22", Members: []route.Member{{ID: "a"}}, Check: &route.Check{Interval: time.Minute}},
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	var back []route.Rule
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if back, err = route.CheckRules(back, ""); err != nil || !reflect.DeepEqual(back, rules) {
		t.Errorf("got %+v, %v\nwant %+v", back, err, rules)
	}
	for _, bad := range []string{`{}`, `{"http":"/","tcp":true}`, `{"tcp":true,"status":"200"}`, `{"http":"/","status":"299-200"}`, `{"http":"/","interval":"5"}`, `{"http":"/","every":"5s"}`} {
		var c route.Check
		if err := json.Unmarshal([]byte(bad), &c); err == nil {
			t.Errorf("%s: got %+v, want an error", bad, c)
		}
	}
}

func FuzzRules(f *testing.F) {
	f.Add([]byte(`[{"name":"web","members":[{"id":"a","priority":2}],"check":{"http":"/","status":"200-299"}}]`))
	f.Add([]byte(`[{"name":":22","members":[{"id":"a"}],"check":{"tcp":true,"timeout":"1s"}}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var rules []route.Rule
		if json.Unmarshal(text, &rules) != nil {
			return
		}
		once, err := route.CheckRules(rules, "example.com")
		if err != nil {
			return
		}
		if twice, err := route.CheckRules(once, "example.com"); err != nil || !reflect.DeepEqual(once, twice) {
			t.Errorf("checked again: got %+v, %v\nwant %+v", twice, err, once)
		}
		if d := route.Diff(once, once); len(d) > 0 {
			t.Errorf("got %v between the same, want nothing", d)
		}
	})
}

func TestDiff(t *testing.T) {
	t.Parallel()
	check := func(rules ...route.Rule) []route.Rule {
		checked, err := route.CheckRules(rules, "")
		if err != nil {
			t.Fatal(err)
		}
		return checked
	}
	ids := func(ids ...tunnel.ID) (all []route.Member) {
		for _, id := range ids {
			all = append(all, route.Member{ID: id})
		}
		return all
	}
	before := check(route.Rule{Name: "a", Members: ids("x")}, route.Rule{Name: "b", Members: ids("x", "y")}, route.Rule{Name: "c", Members: ids("x")})
	heavy := ids("x", "z")
	heavy[0].Weight = 2
	after := check(route.Rule{Name: "a", Members: ids("x")}, route.Rule{Name: "b", Members: heavy, Sticky: route.Source, Check: &route.Check{}}, route.Rule{Name: "d", Members: ids("x")})
	want := []route.Change{
		{"b", route.Changed, []string{
			"member x priority 1 weight 1 -> priority 1 weight 2",
			"+ member z priority 1 weight 1",
			"- member y priority 1 weight 1",
			"sticky no -> sticky source",
			"no check -> check tcp interval 5s timeout 2s healthy 2 unhealthy 2",
		}},
		{"c", route.Removed, []string{"kind http", "member x priority 1 weight 1"}},
		{"d", route.Added, []string{"kind http", "member x priority 1 weight 1"}},
	}
	if got := route.Diff(before, after); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
