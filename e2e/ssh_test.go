package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// An sshd is a running OpenSSH server that lets in this user with a key of its
// own.
type sshd struct {
	*process
	port string
	key  string
	user string
}

// startSSHD starts an sshd on host, through the command prefix if there is one.
// Its key exchange is one that costs little.
func startSSHD(t *testing.T, host string, prefix ...string) *sshd {
	t.Helper()
	program, keygen := need(t, "sshd"), need(t, "ssh-keygen")
	need(t, "ssh")
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // where its unprivileged half lives
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	s := &sshd{port: freePort(t), key: filepath.Join(dir, "id"), user: u.Username}
	for _, name := range []string{"hostkey", "id"} {
		run(t, 20*time.Second, keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name))
	}
	conf := fmt.Sprintf(`Port %s
ListenAddress %s
HostKey %[3]s/hostkey
AuthorizedKeysFile %[3]s/id.pub
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
Subsystem sftp internal-sftp
KexAlgorithms curve25519-sha256
LogLevel ERROR
`, s.port, host, dir)
	path := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	argv := append(prefix, program, "-D", "-e", "-f", path)
	s.process = start(t, "sshd", exec.Command(argv[0], argv[1:]...))
	if len(prefix) == 0 {
		waitAccepts(t, s.process, host+":"+s.port)
	}
	return s
}

// options are those that ssh and scp share.
func (s *sshd) options() []string {
	return []string{"-F", "none", "-i", s.key, "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"}
}

// login is the command that runs another one through host and port.
func (s *sshd) login(t *testing.T, host, port string, prefix ...string) []string {
	t.Helper()
	return slices.Concat(prefix, []string{need(t, "ssh")}, s.options(), []string{"-p", port, s.user + "@" + host})
}

// waitLogin waits until login works.
func waitLogin(t *testing.T, login []string) {
	t.Helper()
	eventually(t, "ssh logs in", 30*time.Second, func(ctx context.Context) error {
		_, err := try(ctx, 15*time.Second, login[0], append(slices.Clip(login[1:]), "true")...)
		return err
	})
}

func TestSSHRunsCommandsThroughTCPTunnel(t *testing.T) {
	t.Parallel()
	d := startSSHD(t, "127.0.0.1")
	_, _, port := startTCP(t, "127.0.0.1:"+d.port)
	ssh := slices.Clip(d.login(t, "127.0.0.1", port))
	waitLogin(t, ssh)

	out, err := try(t.Context(), time.Minute, ssh[0], append(ssh[1:], "seq 1 50000; exit 3")...)
	if got, want := strings.Count(out, "\n"), 50000; got != want {
		t.Errorf("got %d lines, want %d", got, want)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("got error %v, want exit status 3", err)
	}

	// What ends the remote command is the half-close of its input.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, ssh[0], append(ssh[1:], "wc -c")...)
	c.Stdin = body(3 << 20)
	counted, err := c.Output()
	if err != nil || strings.TrimSpace(string(counted)) != fmt.Sprint(3<<20) {
		t.Errorf("remote wc: got %q, %v, want %d", counted, err, 3<<20)
	}
}

func TestSCPCopiesFilesThroughTCPTunnel(t *testing.T) {
	t.Parallel()
	scp := need(t, "scp")
	d := startSSHD(t, "127.0.0.1")
	_, _, port := startTCP(t, "127.0.0.1:"+d.port)
	waitLogin(t, slices.Clip(d.login(t, "127.0.0.1", port)))
	dir := t.TempDir()
	file, there, back := filepath.Join(dir, "file"), filepath.Join(dir, "there"), filepath.Join(dir, "back")
	writeFile(t, file, 50<<20)
	remote := d.user + "@127.0.0.1:" + there
	run(t, 2*time.Minute, scp, append(d.options(), "-P", port, file, remote)...)
	run(t, 2*time.Minute, scp, append(d.options(), "-P", port, remote, back)...)
	want := sumOf(t, file)
	if got := sumOf(t, there); got != want {
		t.Errorf("upload: got SHA-256 %x, want %x", got, want)
	}
	if got := sumOf(t, back); got != want {
		t.Errorf("download: got SHA-256 %x, want %x", got, want)
	}
}
