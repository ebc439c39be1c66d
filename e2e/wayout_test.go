package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/internal/hostile"
	"adit/internal/testca"
	"adit/internal/testdir"
)

// A wayOut is a proxy that lets connections out of a network.
type wayOut struct {
	url   string   // without a password
	login string   // USER:PASSWORD, if it wants one
	env   []string // of agents, besides
}

const (
	wayOutUser     = "me"
	wayOutPassword = "a secret: of e2e"
)

// openDir returns a directory that is open to the user that a program changes
// to.
func openDir(t *testing.T) string {
	t.Helper()
	dir := testdir.Short(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// put writes a file that all can read, and returns its path.
func put(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// startSquid starts a squid that lets in whoever auth, lines of its
// configuration, knows.
func startSquid(t *testing.T, dir string, env []string, auth string) (port string) {
	t.Helper()
	program := need(t, "squid")
	port = freePort(t)
	conf := put(t, dir, "squid.conf", fmt.Sprintf(`http_port 127.0.0.1:%s
%s
acl CONNECT method CONNECT
acl known proxy_auth REQUIRED
http_access allow CONNECT known
http_access deny all
cache deny all
cache_mem 4 MB
access_log none
cache_log /dev/null
pid_filename none
coredump_dir %s
max_filedescriptors 1024
shutdown_lifetime 0 seconds
visible_hostname localhost
`, port, auth, dir))
	c := exec.Command(program, "-N", "-f", conf)
	c.Env = append(environ(), env...)
	waitAccepts(t, start(t, "squid", c), "127.0.0.1:"+port)
	return port
}

func squidBasic(t *testing.T, _ string) wayOut {
	dir := openDir(t)
	htpasswd := need(t, "htpasswd")
	run(t, 10*time.Second, htpasswd, "-bc", filepath.Join(dir, "users"), wayOutUser, wayOutPassword)
	if err := os.Chmod(filepath.Join(dir, "users"), 0o644); err != nil {
		t.Fatal(err)
	}
	port := startSquid(t, dir, nil, "auth_param basic children 1 startup=1\nauth_param basic program /usr/lib/squid/basic_ncsa_auth "+filepath.Join(dir, "users"))
	return wayOut{url: "http://127.0.0.1:" + port, login: wayOutUser + ":" + wayOutPassword}
}

// ntlm is a proxy of our own, since Debian's squid verifies NTLM with the help of
// a domain alone.
func ntlm(t *testing.T, _ string) wayOut {
	p := hostile.NewProxy(t, hostile.ProxyOptions{Login: hostile.NTLM("NTLM", "CORP", wayOutUser, wayOutPassword, `Basic realm="e2e"`)})
	return wayOut{url: "http://" + p.Addr, login: `CORP\` + wayOutUser + ":" + wayOutPassword}
}

func tinyproxy(t *testing.T, server string) wayOut {
	program := need(t, "tinyproxy")
	_, allowed, _ := net.SplitHostPort(server)
	port := freePort(t)
	conf := put(t, t.TempDir(), "conf", fmt.Sprintf("Port %s\nListen 127.0.0.1\nTimeout 600\nMaxClients 20\nAllow 127.0.0.1\nLogLevel Warning\nBasicAuth %s secret-of-e2e\nConnectPort %s\n", port, wayOutUser, allowed))
	waitAccepts(t, start(t, "tinyproxy", exec.Command(program, "-d", "-c", conf)), "127.0.0.1:"+port)
	return wayOut{url: "http://127.0.0.1:" + port, login: wayOutUser + ":secret-of-e2e"}
}

func dante(t *testing.T, _ string) wayOut {
	program := need(t, "danted")
	port := freePort(t)
	conf := put(t, t.TempDir(), "conf", fmt.Sprintf(`logoutput: stderr
internal: 127.0.0.1 port = %s
external: 127.0.0.1
clientmethod: none
socksmethod: none
client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
socks pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
`, port))
	waitAccepts(t, start(t, "danted", exec.Command(program, "-p", filepath.Join(t.TempDir(), "pid"), "-f", conf)), "127.0.0.1:"+port)
	return wayOut{url: "socks5h://127.0.0.1:" + port}
}

func microsocks(t *testing.T, _ string) wayOut {
	program := need(t, "microsocks")
	port := freePort(t)
	waitAccepts(t, start(t, "microsocks", exec.Command(program, "-i", "127.0.0.1", "-p", port, "-u", wayOutUser, "-P", wayOutPassword)), "127.0.0.1:"+port)
	return wayOut{url: "socks5://127.0.0.1:" + port, login: wayOutUser + ":" + wayOutPassword}
}

// squidKerberos has squid ask for a ticket of a realm of its own, for which the
// user has one to ask for tickets with.
func squidKerberos(t *testing.T, _ string) wayOut {
	const realm = "E2E.EXAMPLE.COM"
	util, admin, kdc, kinit := need(t, "kdb5_util"), need(t, "kadmin.local"), need(t, "krb5kdc"), need(t, "kinit")
	dir, port := openDir(t), freePort(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	conf := put(t, dir, "krb5.conf", fmt.Sprintf(`[libdefaults]
	default_realm = %[1]s
	dns_lookup_kdc = false
	dns_canonicalize_hostname = false
	rdns = false
[realms]
	%[1]s = {
		kdc = 127.0.0.1:%[2]s
	}
[domain_realm]
	localhost = %[1]s
`, realm, port))
	profile := put(t, dir, "kdc.conf", fmt.Sprintf(`[realms]
	%s = {
		database_name = %s
		key_stash_file = %s
		kdc_listen = 127.0.0.1:%s
		kdc_tcp_listen = 127.0.0.1:%[4]s
	}
[logging]
	kdc = STDERR
`, realm, file("db"), file("stash"), port))
	env := []string{"KRB5_CONFIG=" + conf, "KRB5_KDC_PROFILE=" + profile, "KRB5CCNAME=FILE:" + file("tickets"),
		"KRB5RCACHENAME=none:"} // else in $TMPDIR, where squid's helper may not write
	call := func(program string, input string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c := exec.CommandContext(ctx, program, args...)
		c.Env, c.Stdin = append(environ(), env...), strings.NewReader(input)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v: %s", program, args, err, out)
		}
	}
	call(util, "", "create", "-s", "-r", realm, "-P", "master key of e2e")
	call(admin, "", "-r", realm, "-q", "addprinc -pw "+`"`+wayOutPassword+`" `+wayOutUser)
	call(admin, "", "-r", realm, "-q", "addprinc -randkey HTTP/localhost")
	call(admin, "", "-r", realm, "-q", "ktadd -k "+file("keytab")+" HTTP/localhost")
	if err := os.Chmod(file("keytab"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(kdc, "-n", "-r", realm, "-P", file("pid"))
	c.Env = append(environ(), env...)
	waitAccepts(t, start(t, "krb5kdc", c), "127.0.0.1:"+port)
	call(kinit, wayOutPassword+"\n", wayOutUser+"@"+realm)
	squid := startSquid(t, dir, env, "auth_param negotiate children 1 startup=1\nauth_param negotiate program /usr/lib/squid/negotiate_kerberos_auth -k "+file("keytab")+" -s HTTP/localhost@"+realm)
	return wayOut{url: "http://localhost:" + squid, env: env}
}

// Everything gets out through proxies of each kind.
func TestWaysOut(t *testing.T) {
	t.Parallel()
	slots := make(chan struct{}, 3) // as for other networks
	for _, tt := range []struct {
		name  string
		start func(t *testing.T, server string) wayOut
	}{
		{"squid with Basic", squidBasic},
		{"NTLM", ntlm},
		{"squid with Kerberos", squidKerberos},
		{"tinyproxy with Basic", tinyproxy},
		{"dante", dante},
		{"microsocks with a password", microsocks},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			d := startSSHD(t, "127.0.0.1")
			s := startServer(t, "--forward", "127.0.0.1:"+d.port)
			out := tt.start(t, s.addr)
			args := []string{"--proxy", out.url}
			if out.login != "" {
				login := filepath.Join(t.TempDir(), "login")
				if err := os.WriteFile(login, []byte(out.login+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--proxy-password-file", login)
			}
			agent := func(argv ...string) *process {
				c := aditCommand(slices.Concat([]string{binary}, argv, args, []string{"--server", "ws://" + s.addr, "--secret-file", s.secret}))
				c.Env = append(c.Env, out.env...)
				return start(t, "agent", c)
			}
			c := s.carried(t, d, agent)
			c.converse(t)
			c.transfer(t, carriedSize())
			if log, _ := c.forward.log.read(); strings.Contains(log, wayOutPassword) || strings.Contains(log, "secret-of-e2e") {
				t.Errorf("the password is in the agent's log:\n%s", log)
			}
		})
	}
}

// Everything passes a device that looks into TLS, if the agents are told of its
// authority.
func TestThroughResigner(t *testing.T) {
	t.Parallel()
	d := startSSHD(t, "127.0.0.1")
	s := startTLS(t, "--forward", "127.0.0.1:"+d.port)
	ca := testca.New(t)
	device := hostile.NewResigner(t, s.tlsAddr, &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server("localhost"))}})
	_, port, _ := net.SplitHostPort(device)
	c := s.carried(t, d, func(args ...string) *process {
		return start(t, "agent", aditCommand(slices.Concat([]string{binary}, args,
			[]string{"--server", "wss://localhost:" + port, "--ca-file", ca.File(t), "--secret-file", s.secret})))
	})
	c.converse(t)
	c.transfer(t, carriedSize())
}

// A stand-in gets out too, by the setting that its original has.
func TestStandInsWayOut(t *testing.T) {
	t.Parallel()
	addr, client := startWstunnel(t)
	out := tinyproxy(t, addr)
	site := upstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "from inside") })
	client("-tunnel", "ws://"+addr, "-server", "http://"+site, "-proxy", strings.Replace(out.url, "//", "//"+out.login+"@", 1))
	curl := need(t, "curl")
	eventually(t, "an answer", 20*time.Second, func(ctx context.Context) error {
		got, err := try(ctx, 10*time.Second, curl, "-sS", "--fail", "-H", "X-Token: "+wstunnelToken, "http://"+addr+"/")
		if err == nil && got != "from inside" {
			t.Fatalf("got %q", got)
		}
		return err
	})
}
