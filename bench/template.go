package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// tunnelVars is what differs between the tunnels of one subject.
type tunnelVars struct {
	Index  int
	ID     string
	Token  string
	Listen string // address for visitors, where each tunnel has its own
	Host   string // ID.example.com
}

func (t tunnelVars) ListenPort() string { return portOf(t.Listen) }

type tmplData struct {
	tunnelVars
	Tunnels    []tunnelVars
	Backend    string // as the client reaches it
	BackendFar string // as the visitor side reaches it (no tunnel)
	PortRange  string // where the ports of Listen and port come from
	ServerHost string
	ClientHost string
	Work       string
	Self       string
	User       string
	Name       string
}

func (d tmplData) BackendPort() string { return portOf(d.Backend) }

func (d tmplData) BackendHost() string { h, _, _ := net.SplitHostPort(d.Backend); return h }

func portOf(a string) string { _, p, _ := net.SplitHostPort(a); return p }

func (in *instance) data(t tunnelVars) tmplData {
	u := "root"
	if cu, err := user.Current(); err == nil {
		u = cu.Username
	}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return tmplData{tunnelVars: t, Tunnels: []tunnelVars{t}, Backend: in.env.backend, BackendFar: in.env.backendFar,
		PortRange: fmt.Sprintf("%d-%d", portMin, portMax), ServerHost: in.env.serverHost, ClientHost: in.env.clientHost, Work: in.work, Self: self, User: u, Name: in.sub.Name}
}

func (in *instance) expand(s string, d tmplData) (string, error) {
	t, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"bin": func(name string) (string, error) { return findBin(in.env.binDir, name) },
		"port": func(name string) (int, error) {
			in.mu.Lock()
			defer in.mu.Unlock()
			if p, ok := in.ports[name]; ok {
				return p, nil
			}
			p, err := ports.get()
			in.ports[name] = p
			return p, err
		},
		"jwt": makeJWT,
		"var": func(k string) (string, error) {
			v, ok := in.sub.Vars[k]
			if !ok {
				return "", fmt.Errorf("no var %q", k)
			}
			return v, nil
		},
		"portOf": portOf,
	}).Parse(s)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.Execute(&b, d); err != nil {
		return "", err
	}
	return b.String(), nil
}

func findBin(dir, name string) (string, error) {
	if dir != "" {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && !st.IsDir() {
			return p, nil
		}
	}
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, d := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		p := filepath.Join(d, name)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("no program %q (set PEERS_BIN or -bin)", name)
}

// makeJWT signs {"tid": id} with HS256 for a day.
func makeJWT(secret, tid string) string {
	now := time.Now().Unix()
	e := base64.RawURLEncoding
	claims, _ := json.Marshal(map[string]any{"tid": tid, "iat": now, "nbf": now - 300, "exp": now + 86400})
	s := e.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + e.EncodeToString(claims)
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(s))
	return s + "." + e.EncodeToString(m.Sum(nil))
}

func (in *instance) writeFiles(files map[string]string, d tmplData) error {
	for n, c := range files {
		s, err := in.expand(c, d)
		if err != nil {
			return err
		}
		nn, err := in.expand(n, d)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(in.work, nn), []byte(s), 0o600); err != nil {
			return err
		}
	}
	return nil
}
