package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A forest is what docs/dialects/forest-tunnel.md sets up, with two clients and
// an upstream that alone has the key of its certificate.
type forest struct {
	t           *testing.T
	dir         string
	control     string // port
	front       string
	home, cloud *process
}

func newForest(t *testing.T) *forest {
	need(t, "curl")
	f := &forest{t: t, dir: t.TempDir(), control: freePort(t), front: freePort(t)}
	for _, args := range [][]string{
		{"ca"}, {"server", "localhost", "127.0.0.1"}, {"client", "home@example.com"}, {"client", "cloud@example.com"}, {"client", "automation@example.com"},
		{"ca", "--name", "web-ca"}, {"server", "www.example.com", "--name", "web", "--ca", filepath.Join(f.dir, "web-ca")},
	} {
		run(t, 30*time.Second, binary, append(append([]string{"cert"}, args...), "--dir", f.dir)...)
	}
	pair, err := tls.LoadX509KeyPair(f.file("web.crt"), f.file("web.key"))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "of the upstream") }), ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { web.Serve(ln) })
	t.Cleanup(func() { web.Close(); wg.Wait() })

	f.write("server.json", `{"UseTls":true,"ListenPort":`+f.control+`,"Domain":"example.com","CaCertificateFilesGlob":"ca.crt",
		"ServerTlsCertificateFile":"server.crt","ServerTlsKeyFile":"server.key","ManagementCommonNames":["automation@example.com"]}`)
	f.run("server", "server")
	for _, id := range []string{"home", "cloud"} {
		f.write(id+".json", fmt.Sprintf(`{"UseTls":true,"ClientIdentifier":%q,"ServerAddr":"127.0.0.1:%s","CaCertificateFilesGlob":"ca.crt",
			"ClientTlsCertificateFile":"%[1]s.crt","ClientTlsKeyFile":"%[1]s.key","ServiceToLocalAddrMap":{"web":%[3]q}}`, id, f.control, ln.Addr()))
	}
	f.home, f.cloud = f.run("client", "home"), f.run("client", "cloud")
	for _, p := range []*process{f.home, f.cloud} {
		p.waitLog(t, "connection", 10*time.Second, func(log string) bool { return strings.Contains(log, "->ClientConnected") })
	}
	return f
}

func (f *forest) file(name string) string { return filepath.Join(f.dir, name) }

func (f *forest) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(f.file(name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *forest) read(name string) string {
	f.t.Helper()
	b, err := os.ReadFile(f.file(name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}

func (f *forest) run(mode, name string) *process {
	f.t.Helper()
	// The name of the program is that of the original: a link is enough.
	link := f.file("tunnel")
	if err := os.Symlink(binary, link); err != nil && !os.IsExist(err) {
		f.t.Fatal(err)
	}
	c := exec.Command(link, "-mode", mode, "-configFile", name+".json")
	c.Dir = f.dir
	return start(f.t, "forest "+name, c)
}

// put sets the tunnels; the list names who serves, the first of them first.
func (f *forest) put(as string, clients ...string) string {
	f.t.Helper()
	set := fmt.Sprintf(`[{"ClientIdentifier":%q,"FailoverClientIdentifiers":["%s"],"ListenAddress":"127.0.0.1","ListenPort":%s,"ListenHostnameGlob":"*.example.com","BackEndService":"web"}]`,
		clients[0], strings.Join(clients[1:], `","`), f.front)
	out, err := exec.Command("curl", "-sS", "-w", " %{http_code}", "--cacert", f.file("ca.crt"), "--cert", f.file(as+".crt"), "--key", f.file(as+".key"),
		"-X", "PUT", "-H", "Content-Type: application/json", "-d", set, "https://127.0.0.1:"+f.control+"/tunnels").CombinedOutput()
	if err != nil {
		f.t.Fatalf("curl: %v: %s", err, out)
	}
	return string(out)
}

// get asks for a page as a visitor who trusts the upstream's authority alone.
func (f *forest) get(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "curl", "-sS", "--max-time", "10", "--cacert", f.file("web-ca.crt"),
		"--connect-to", "www.example.com:443:127.0.0.1:"+f.front, "https://www.example.com/").CombinedOutput()
	if err != nil || string(out) != "of the upstream" {
		return fmt.Errorf("%v: %s", err, out)
	}
	return nil
}

// A visiting makes a connection every 10 ms until it is stopped.
type visiting struct {
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	all, bad int
	last     error
}

func (f *forest) visit() *visiting {
	ctx, cancel := context.WithCancel(f.t.Context())
	v := &visiting{stop: cancel}
	f.t.Cleanup(func() { cancel(); v.wg.Wait() })
	v.wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			v.wg.Go(func() {
				err := f.handshake()
				v.mu.Lock()
				defer v.mu.Unlock()
				v.all++
				if err != nil {
					v.bad, v.last = v.bad+1, err
				}
			})
		}
	})
	return v
}

func (f *forest) handshake() error {
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+f.front, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return tls.Client(c, &tls.Config{ServerName: "www.example.com", InsecureSkipVerify: true}).Handshake() // curl verifies
}

func (v *visiting) end() (all, bad int, last error) {
	v.stop()
	v.wg.Wait()
	return v.all, v.bad, v.last
}

func (v *visiting) await(t *testing.T, more int) {
	t.Helper()
	v.mu.Lock()
	want := v.all + more
	v.mu.Unlock()
	eventually(t, "visitors", 30*time.Second, func(context.Context) error {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.all < want {
			return fmt.Errorf("got %d, want %d", v.all, want)
		}
		return nil
	})
}

func TestForestWithMutualTLSAndKeysAtHome(t *testing.T) {
	t.Parallel()
	f := newForest(t)
	if got := f.put("home", "home"); !strings.HasSuffix(got, " 403") {
		t.Errorf("PUT by a client: got %q, want 403", got)
	}
	if got := f.put("automation", "home", "cloud"); !strings.HasSuffix(got, " 200") {
		t.Fatalf("PUT: got %q, want 200", got)
	}
	if err := f.get(t.Context()); err != nil {
		t.Fatal(err)
	}

	v := f.visit()
	v.await(t, 20)
	for i := range 10 {
		if got := f.put("automation", []string{"cloud", "home"}[i%2], "cloud"); !strings.HasSuffix(got, " 200") {
			t.Fatalf("PUT: got %q, want 200", got)
		}
		v.await(t, 5)
	}
	if all, bad, last := v.end(); bad > 0 {
		t.Errorf("hot swaps: %d of %d connections failed: %v", bad, all, last)
	}

	if got := f.put("automation", "home", "cloud"); !strings.HasSuffix(got, " 200") {
		t.Fatalf("PUT: got %q, want 200", got)
	}
	v = f.visit()
	v.await(t, 20)
	f.home.kill()
	v.await(t, 50)
	all, bad, last := v.end()
	t.Logf("kill -9 of the active client: %d of %d connections failed: %v", bad, all, last)
	if bad > 5 {
		t.Errorf("kill -9 of the active client: %d of %d connections failed: %v; want at most those that were open", bad, all, last)
	}
	if err := f.get(t.Context()); err != nil {
		t.Errorf("after the kill: %v", err)
	}
}
