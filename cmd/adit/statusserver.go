package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"adit/admin"
	"adit/auth"
	"adit/internal/screen"
)

const (
	adminTimeout = 10 * time.Second
	adminPage    = 10_000   // elements of a list
	maxAdminBody = 64 << 20 // bytes
)

// An adminAPI asks a server's admin address.
type adminAPI struct {
	http  *http.Client
	base  string
	token auth.Secret
}

// newAdminAPI understands addresses as adit server does, and URLs.
func newAdminAPI(address string, token auth.Secret) (*adminAPI, error) {
	tr := &http.Transport{} // the token is for nobody in between, so there is no proxy
	a := &adminAPI{token: token, http: &http.Client{
		Transport:     tr,
		Timeout:       adminTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if strings.HasPrefix(address, "http://") || strings.HasPrefix(address, "https://") {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, usagef("--admin: want a URL such as https://admin.example.com")
		}
		a.base = strings.TrimSuffix(u.String(), "/")
		return a, nil
	}
	if err := admin.CheckAddress(address); err != nil {
		return nil, usagef("--admin %v", err)
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		a.base = "http://localhost"
		return a, nil
	}
	host, port, _ := net.SplitHostPort(address)
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "localhost" // where a server listens on all addresses
	}
	a.base = "http://" + net.JoinHostPort(host, port)
	return a, nil
}

// get decodes the answer to a question.
func (a *adminAPI) get(ctx context.Context, path string, v any) error {
	return a.ask(ctx, http.MethodGet, path, nil, v)
}

// ask decodes the answer to a request. order is its body in JSON, if it has one;
// fields are names and values of header fields.
func (a *adminAPI) ask(ctx context.Context, method, path string, order []byte, v any, fields ...string) error {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(order))
	if err != nil {
		return err
	}
	if order != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	req.Header.Set("Authorization", "Bearer "+a.token.Reveal())
	resp, err := a.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the server: %s", cause(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminBody))
	if err != nil {
		return fmt.Errorf("ask the server: %s", cause(err))
	}
	if resp.StatusCode != http.StatusOK {
		var refusal struct {
			Error struct{ Message string }
		}
		json.Unmarshal(body, &refusal) // what is no such JSON has no message
		if refusal.Error.Message == "" {
			return fmt.Errorf("the answer is %d: is --admin the admin address of a server?", resp.StatusCode)
		}
		return errors.New("refused: " + screen.Style{}.Clean(refusal.Error.Message))
	}
	if err := json.Unmarshal(body, v); err != nil {
		return errors.New("the answer is not that of an admin address: is --admin right?")
	}
	return nil
}

// list returns all elements of a list.
func list[T any](ctx context.Context, a *adminAPI, name string) ([]T, error) {
	all := []T{}
	for after := ""; ; {
		page := make(map[string]json.RawMessage)
		q := url.Values{"limit": {fmt.Sprint(adminPage)}}
		if after != "" {
			q.Set("after", after)
		}
		if err := a.get(ctx, "/api/v1/"+name+"?"+q.Encode(), &page); err != nil {
			return nil, err
		}
		var part []T
		if err := json.Unmarshal(page[name], &part); err != nil {
			return nil, fmt.Errorf("the server's list of %s is malformed", name)
		}
		all = append(all, part...)
		next := ""
		if page["next"] != nil {
			json.Unmarshal(page["next"], &next) // a malformed one ends the list
		}
		if next <= after { // keys grow, so this is the end
			return all, nil
		}
		after = next
	}
}

// ask calls do with the server's API, for as long as it may take.
func (f *statusFlags) ask(ctx context.Context, do func(context.Context, *adminAPI) error) error {
	token, err := f.token()
	if err != nil {
		return err
	}
	a, err := newAdminAPI(f.admin, token)
	if err != nil {
		return err
	}
	defer a.http.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	return do(ctx, a)
}

// server shows what a server carries.
func (f *statusFlags) server(ctx context.Context, a *adminAPI) (err error) {
	var all struct {
		Server   admin.Status    `json:"server"`
		Tunnels  []admin.Tunnel  `json:"tunnels"`
		Sessions []admin.Session `json:"sessions"`
		Routes   []admin.Route   `json:"routes"`
	}
	if err := a.get(ctx, "/api/v1/status", &all.Server); err != nil {
		return err
	}
	if all.Tunnels, err = list[admin.Tunnel](ctx, a, "tunnels"); err != nil {
		return err
	}
	if all.Sessions, err = list[admin.Session](ctx, a, "sessions"); err != nil {
		return err
	}
	if all.Routes, err = list[admin.Route](ctx, a, "routes"); err != nil {
		return err
	}
	if f.json {
		return f.printJSON(all)
	}
	st := f.p.tableStyle()
	fmt.Fprintln(f.p.out, st.Clean(serverLine(all.Server)))
	for _, rows := range [][][]string{tunnelTable(all.Tunnels), sessionTable(all.Sessions), routeTable(all.Routes)} {
		if len(rows) == 1 {
			continue // a heading with nothing below
		}
		fmt.Fprintln(f.p.out)
		for _, line := range st.Table(rows) {
			fmt.Fprintln(f.p.out, line)
		}
	}
	return nil
}

func (f *statusFlags) token() (auth.Secret, error) {
	path := f.tokenFile
	if path == "" {
		path = filepath.Join(f.dataDir, adminTokenFile)
	}
	token, err := auth.LoadSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return token, fmt.Errorf("admin token: %w (--admin-token-file names another file)", err)
	} else if err != nil {
		return token, fmt.Errorf("admin token: %w", err)
	}
	return token, nil
}

func serverLine(s admin.Status) string {
	state := "ready"
	switch {
	case s.Draining:
		state = "draining"
	case !s.Ready:
		state = "not ready"
	}
	return fmt.Sprintf("%s  %s  adit %s for %s  %s, %d waiting, %s", s.URL, state, s.Version, ago(s.Started),
		screen.Count(uint64(s.Visitors), "visitor"), s.Waiting, screen.Count(uint64(s.Streams), "stream"))
}

func ago(t time.Time) string { return screen.Age(time.Since(t)) }

func tunnelTable(tunnels []admin.Tunnel) [][]string {
	rows := [][]string{{"TUNNEL", "KIND", "ADDRESS", "STATE", "FOR", "HOLDER", "SESSION"}}
	for _, t := range tunnels {
		u := "-"
		if len(t.URLs) > 0 {
			u = t.URLs[0]
		}
		rows = append(rows, []string{t.ID, t.Kind, u, string(t.State), ago(t.BoundAt), t.Subject, t.Session})
		for _, u := range t.URLs[min(1, len(t.URLs)):] {
			rows = append(rows, []string{"", "", u})
		}
	}
	return rows
}

func sessionTable(sessions []admin.Session) [][]string {
	rows := [][]string{{"SESSION", "FROM", "STATE", "FOR", "ROUND TRIP", "CARRIER", "STREAMS", "HOLDER", "DIALECT"}}
	for _, s := range sessions {
		rtt := "-"
		if s.RoundTrip > 0 {
			rtt = screen.RoundTrip(seconds(s.RoundTrip))
		}
		rows = append(rows, []string{s.ID, s.Remote, string(s.State), ago(s.ConnectedAt), rtt, cmp.Or(s.Carrier, "-"), fmt.Sprint(s.Streams), s.Subject, s.Dialect})
	}
	return rows
}

func routeTable(routes []admin.Route) [][]string {
	rows := [][]string{{"ROUTE", "LEADS TO", "WAITING", "HOLDER"}}
	for _, r := range routes {
		var to []string
		for _, t := range r.Targets {
			target := t.Session
			if r.Kind != "" {
				to = append(to, healthOf(t))
				continue
			}
			if t.State != admin.Available {
				target += " (" + string(t.State) + ")"
			}
			to = append(to, target)
		}
		leads := strings.Join(to, ", ")
		switch {
		case r.Blocked:
			leads = "blocked"
		case leads == "":
			leads = "nobody now"
		}
		rows = append(rows, []string{r.Key, leads, fmt.Sprint(r.Waiting), r.Subject})
	}
	return rows
}
