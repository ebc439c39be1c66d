package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

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
	switch in.sub.Kind {
	case "http":
		return probeHTTP(t, timeout)
	case "udp":
		return probeUDP(t, timeout)
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
