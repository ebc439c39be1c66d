package e2e

import (
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// startPostgres makes a database cluster of its own and returns its port and its
// unix socket. As root it runs as the user postgres, since PostgreSQL refuses to
// be root.
func startPostgres(t *testing.T) (port, socket string) {
	t.Helper()
	initdb, postgres := need(t, "initdb"), need(t, "postgres")
	dir, err := os.MkdirTemp("", "adit-e2e-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var as []string
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			missing(t, "a user postgres")
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, uid, -1); err != nil {
			t.Fatal(err)
		}
		as = []string{need(t, "setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups"}
	}
	command := func(argv ...string) []string { return append(as[:len(as):len(as)], argv...) }
	data := filepath.Join(dir, "data")
	c := command(initdb, "-D", data, "-U", "postgres", "-A", "trust", "-N")
	run(t, time.Minute, c[0], c[1:]...)
	port = freePort(t)
	c = command(postgres, "-D", data, "-p", port, "-h", "127.0.0.1", "-k", dir, "-F")
	p := start(t, "postgres", exec.Command(c[0], c[1:]...))
	waitAccepts(t, p, "127.0.0.1:"+port)
	return port, filepath.Join(dir, ".s.PGSQL."+port)
}

func TestPostgreSQLThroughTCPTunnel(t *testing.T) {
	t.Parallel()
	psql := need(t, "psql")
	at, _ := startPostgres(t)
	_, _, port := startTCP(t, "127.0.0.1:"+at)
	args := func(port, query string) []string {
		return []string{"-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", port, "-U", "postgres", "-c", query}
	}
	eventually(t, "postgres answers", 30*time.Second, func(ctx context.Context) error {
		_, err := try(ctx, 5*time.Second, psql, args(port, "select 1")...)
		return err
	})
	run(t, time.Minute, psql, args(port, "create table rows as select n, md5(n::text) as sum from generate_series(1, 200000) n")...)
	const all = "copy (select * from rows order by n) to stdout"
	got := run(t, time.Minute, psql, args(port, all)...)
	want := run(t, time.Minute, psql, args(at, all)...)
	if got != want {
		t.Errorf("got %d bytes of rows through the tunnel that differ from the %d of the upstream itself", len(got), len(want))
	}
}
