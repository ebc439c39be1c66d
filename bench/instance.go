package main

import (
	"bytes"
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
	"strconv"
	"strings"
	"sync"
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

// Ports come from below the range of ephemeral ports, so that the source
// ports of the load never collide with them.
const (
	portMin = 18000
	portMax = 31899
)

type portAlloc struct {
	mu   sync.Mutex
	next int
}

// ports starts at another place in each process, so that two harnesses side by
// side seldom look at the same port.
var ports = &portAlloc{next: portMin + (os.Getpid()%64)*128}

// get returns a port that nothing listens on.
func (p *portAlloc) get() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var last error
	for range portMax - portMin {
		if p.next++; p.next > portMax {
			p.next = portMin
		}
		ln, err := net.Listen("tcp", fmt.Sprintf(":%d", p.next))
		if err != nil {
			last = err
			continue
		}
		ln.Close()
		return p.next, nil
	}
	return 0, fmt.Errorf("no free port from %d to %d: %w", portMin, portMax, last)
}

// runEnv is shared by the instances of one run.
type runEnv struct {
	binDir      string
	workRoot    string
	backendProc *proc
	backend     string // address for the tunnel's client side
	backendFar  string
	serverHost  string
	clientHost  string
	nsClient    string // network namespace of the client and the backend, empty without -wan
	cmdFlags    map[string]string
	keepLogs    bool
}

type instance struct {
	sub    *Subject
	env    *runEnv
	work   string
	ports  map[string]int
	mu     sync.Mutex
	tun    tunnelVars
	server *proc
	client *proc
	many   []*proc
	target target
}

type target struct {
	addr    string
	prefix  string
	host    string
	headers string // ready to be written
}

func newInstance(s *Subject, env *runEnv) (*instance, error) {
	w, err := os.MkdirTemp(env.workRoot, s.Name+"-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(w, 0o755); err != nil { // see up
		return nil, err
	}
	in := &instance{sub: s, env: env, work: w, ports: map[string]int{}}
	in.tun, err = in.newTunnel(0)
	return in, err
}

func (in *instance) newTunnel(i int) (tunnelVars, error) {
	port, err := ports.get()
	id := "t" + strconv.Itoa(i)
	return tunnelVars{Index: i, ID: id, Token: id + "-0123456789abcdef", Host: id + ".example.com",
		Listen: net.JoinHostPort(in.env.serverHost, strconv.Itoa(port))}, err
}

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

func (in *instance) argv(c Command, role string, d tmplData) ([]string, []string, error) {
	cmd := c.Cmd
	if cmd == "" {
		for _, k := range []string{in.sub.Name + "." + role, role} {
			if v, ok := in.env.cmdFlags[k]; ok {
				cmd = v
				break
			}
		}
	}
	if strings.TrimSpace(cmd) == "" {
		return nil, nil, nil
	}
	s, err := in.expand(cmd, d)
	if err != nil {
		return nil, nil, err
	}
	var env []string
	for k, v := range c.Env {
		x, err := in.expand(v, d)
		if err != nil {
			return nil, nil, err
		}
		env = append(env, k+"="+x)
	}
	argv := strings.Fields(s)
	if role == "client" && in.env.nsClient != "" {
		argv = append([]string{"ip", "netns", "exec", in.env.nsClient}, argv...)
	}
	return argv, env, nil
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

func (in *instance) runOnce(line string, d tmplData) error {
	s, err := in.expand(line, d)
	if err != nil {
		return err
	}
	a := strings.Fields(s)
	c := exec.Command(a[0], a[1:]...)
	c.Dir = in.work
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %v: %s", s, err, bytes.TrimSpace(out))
	}
	return nil
}

func (in *instance) prepare() error {
	d := in.data(in.tun)
	if err := in.writeFiles(in.sub.Files, d); err != nil {
		return err
	}
	for _, p := range in.sub.Prepare {
		if err := in.runOnce(p, d); err != nil {
			return err
		}
	}
	t, err := in.targetFor(in.tun)
	in.target = t
	return err
}

func (in *instance) targetFor(tv tunnelVars) (target, error) {
	d := in.data(tv)
	var t target
	var err error
	addr := in.sub.Reach.Addr
	if addr == "" {
		addr = "{{.Listen}}"
	}
	if t.addr, err = in.expand(addr, d); err != nil {
		return t, err
	}
	if t.prefix, err = in.expand(in.sub.Reach.Prefix, d); err != nil {
		return t, err
	}
	if t.host, err = in.expand(in.sub.Reach.Host, d); err != nil {
		return t, err
	}
	if t.host == "" {
		t.host = t.addr
	}
	for k, v := range in.sub.Reach.Headers {
		x, err := in.expand(v, d)
		if err != nil {
			return t, err
		}
		t.headers += k + ": " + x + "\r\n"
	}
	return t, nil
}

func (in *instance) startServer() error {
	d := in.data(in.tun)
	argv, env, err := in.argv(in.sub.Server, "server", d)
	if err != nil || argv == nil {
		return err
	}
	in.server, err = startProc("server", argv, env, in.work, filepath.Join(in.work, "server.log"))
	if err != nil {
		return err
	}
	if in.sub.Server.Wait != "" {
		a, err := in.expand(in.sub.Server.Wait, d)
		if err != nil {
			return err
		}
		return waitAddr(a, 10*time.Second, in.server)
	}
	return nil
}

func waitAddr(a string, max time.Duration, p *proc) error {
	end := time.Now().Add(max)
	for {
		c, err := net.DialTimeout("tcp", a, 500*time.Millisecond)
		if err == nil {
			c.Close()
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("nothing listens on %s: %v", a, err)
		}
		if p != nil && !p.alive() {
			return fmt.Errorf("%s ended at once: %s", p.role, tail(p.logPath, 300))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func tail(path string, n int) string {
	b, _ := os.ReadFile(path)
	if len(b) > n {
		b = b[len(b)-n:]
	}
	return strings.TrimSpace(string(b))
}

func (in *instance) startClient() error {
	d := in.data(in.tun)
	argv, env, err := in.argv(in.sub.Client, "client", d)
	if err != nil || argv == nil {
		return err
	}
	in.client, err = startProc("client", argv, env, in.work, filepath.Join(in.work, "client.log"))
	if err != nil {
		return err
	}
	if in.sub.Client.Wait != "" {
		a, err := in.expand(in.sub.Client.Wait, d)
		if err != nil {
			return err
		}
		return waitAddr(a, 10*time.Second, in.client)
	}
	return nil
}

func (in *instance) runSetup(max time.Duration) error {
	end := time.Now().Add(max)
	for _, s := range in.sub.Setup {
		for {
			err := in.runOnce(s, in.data(in.tun))
			if err == nil {
				break
			}
			if time.Now().After(end) {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

// start brings up the server and one client, and waits until a verified
// request has passed through.
func (in *instance) start() error {
	if err := in.prepare(); err != nil {
		return err
	}
	if err := in.startServer(); err != nil {
		return err
	}
	if err := in.startClient(); err != nil {
		return err
	}
	if err := in.runSetup(15 * time.Second); err != nil {
		return err
	}
	return in.waitReady(in.target, 20*time.Second)
}

func (in *instance) probe(t target, timeout time.Duration) error {
	if in.sub.Kind == "http" {
		return probeHTTP(t, timeout)
	}
	return probeTCP(t, timeout)
}

func (in *instance) waitReady(t target, max time.Duration) error {
	end := time.Now().Add(max)
	for {
		err := in.probe(t, 3*time.Second)
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			l := ""
			if in.client != nil {
				l = tail(in.client.logPath, 300)
			}
			return fmt.Errorf("not ready: %v; client log: %s", err, l)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (in *instance) procs() []*proc {
	var out []*proc
	if in.server != nil {
		out = append(out, in.server)
	}
	if in.client != nil {
		out = append(out, in.client)
	}
	return append(out, in.many...)
}

func (in *instance) stop() {
	for i := len(in.many) - 1; i >= 0; i-- {
		in.many[i].kill9()
	}
	in.many = nil
	in.client.stop()
	in.server.stop()
	in.client, in.server = nil, nil
	if !in.env.keepLogs {
		os.RemoveAll(in.work)
	}
}

func (in *instance) noteMemory(sm *sample, maxMB int64) {
	for _, p := range in.procs() {
		if p.tooBig.Load() {
			sm.fails["memory"]++
			sm.notes = append(sm.notes, fmt.Sprintf("the %s grew beyond %d MB and was ended by the harness", p.role, maxMB))
		}
	}
}

// snapshot of CPU and memory of both sides.
type snap struct {
	server, client usage
	self           float64
	backend        float64
	at             time.Time
}

func (in *instance) snap() snap {
	kids := childrenMap()
	s := snap{self: selfCPU(), at: time.Now()}
	if in.server != nil {
		s.server = in.server.usageIn(kids)
	}
	if in.client != nil {
		s.client = in.client.usageIn(kids)
	}
	for _, p := range in.many {
		u := p.usageIn(kids)
		s.client.cpu += u.cpu
		s.client.rss += u.rss
		s.client.hwm += u.hwm
		s.client.procs += u.procs
	}
	s.backend = in.env.backendProc.usageIn(kids).cpu
	return s
}

func (in *instance) resetHWM() {
	kids := childrenMap()
	for _, p := range in.procs() {
		p.resetHWM(kids)
	}
}
