package server_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/admin"
	"adit/auth"
	"adit/dialect"
	"adit/ingress"
	"adit/internal/testport"
	"adit/route"
	"adit/server"
	"adit/tunnel"
)

func portRule(port uint16, ids ...tunnel.ID) route.Rule {
	r := route.Rule{Name: fmt.Sprintf(":%d", port)}
	for _, id := range ids {
		r.Members = append(r.Members, route.Member{ID: id})
	}
	return r
}

func accepts(port uint16) bool {
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String(), time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// A set with a port that cannot be opened changes nothing: ports of before stay
// open, new ones are closed again, and the file has the old set.
func TestSetRoutesAllOrNothing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "routes.json")
	f := start(t, func(o *server.Options) { o.RouteFile = file })
	ports := []uint16{testport.One(t), testport.One(t), testport.One(t)}
	if _, err := f.SetRoutes([]route.Rule{portRule(ports[0], "a")}, "", false); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(file)
	if err != nil || !accepts(ports[0]) {
		t.Fatalf("got %v, want a file and an open port", err)
	}
	busy, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ports[2]))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	_, err = f.SetRoutes([]route.Rule{portRule(ports[1], "a"), portRule(ports[2], "a")}, "", false)
	re, ok := errors.AsType[*admin.RouteSetError](err)
	if !ok || re.Code != admin.RoutesPort || !strings.Contains(re.Reason, fmt.Sprintf(`":%d"`, ports[2])) {
		t.Errorf("got %v, want which port cannot be opened", err)
	}
	after, _ := os.ReadFile(file)
	if string(after) != string(before) || !accepts(ports[0]) || accepts(ports[1]) || len(f.RouteSet().Routes) != 1 {
		t.Errorf("after a set that cannot be: file %s, ports %v and %v, %d routes; want everything as before", after, accepts(ports[0]), accepts(ports[1]), len(f.RouteSet().Routes))
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); len(left) != 1 {
		t.Errorf("got %v, want no other files", left)
	}
	for _, bad := range [][]route.Rule{{{Name: "web"}}, {{Name: "www.example.org", Kind: route.TLS, Members: []route.Member{{ID: "a"}}}}} {
		_, err := f.SetRoutes(bad, "", false)
		if re, ok := errors.AsType[*admin.RouteSetError](err); !ok || re.Code != admin.RoutesInvalid {
			t.Errorf("%v: got %v, want that it is wrong", bad, err)
		}
	}
	if _, err := f.SetRoutes(nil, "another", false); err == nil {
		t.Error("got no error for another revision")
	}
	if changes, err := f.SetRoutes(nil, f.RouteSet().Revision, true); err != nil || len(changes) != 1 || !accepts(ports[0]) {
		t.Errorf("dry run: got %v, %v, want one change that is not made", changes, err)
	}
	if _, err := f.SetRoutes(nil, "", false); err != nil || accepts(ports[0]) {
		t.Errorf("got %v, want the port closed", err)
	}
}

// An agent of a member shares the port of the route; others don't get it.
func TestPortOfRoute(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	f := start(t, func(o *server.Options) {
		o.TCPPorts = []ingress.PortRange{{First: port, Last: port}}
	})
	if _, err := f.SetRoutes([]route.Rule{portRule(port, "first", "second")}, "", false); err != nil {
		t.Fatal(err)
	}
	a, err := f.dialSession(t, f.secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	bind := func(id tunnel.ID) error {
		_, err := a.Bind(t.Context(), dialect.Binding{Key: string(id), Kind: dialect.TCP, ID: id, Port: port})
		return err
	}
	if err := bind("second"); err != nil {
		t.Errorf("a member: got %v, want the route's port", err)
	}
	if err := bind("third"); err == nil {
		t.Error("somebody else got the route's port")
	}
	if _, err := f.SetRoutes(nil, "", false); err != nil {
		t.Fatal(err)
	}
	if !accepts(port) {
		t.Error("the port is closed without the route, though an agent has bound it")
	}
}

// A server whose file is damaged says so, and does not start without routes that
// somebody relies on.
func TestDamagedRoutes(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "routes.json")
	for _, text := range []string{"{", `{"routes":[{"name":"web"}]}`, `{"routes":[{"nam":"web"}]}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		o := options(t, io.Discard, auth.NewSecret())
		o.RouteFile = file
		if s, err := server.New(o); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v, %v, want an error that names the file", text, s, err)
		}
	}
}
