package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"adit/packaging/systemd"
)

// serviceFlags are the flags of adit service.
type serviceFlags struct {
	p      *program
	config string
	name   string
	binary string
	root   string
	dryRun bool
	start  bool
}

func (p *program) serviceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "service",
		Short: "Run the server or an agent as a service of this machine",
		Long: "Install a systemd unit that runs the server or an agent with a config file, as a\n" +
			"user of its own that may do little else.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	install := serviceFlags{p: p}
	ic := &cobra.Command{
		Use:       "install server|agent",
		Short:     "Install and start a service",
		Example:   "  sudo adit service install server\n  sudo adit service install agent --config /etc/adit/shop.yaml --name adit-shop",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{"server", "agent"},
		RunE:      func(c *cobra.Command, args []string) error { return install.install(c.Context(), args[0]) },
	}
	fl := ic.Flags()
	fl.StringVar(&install.config, "config", "", "config file (default /etc/adit/server.yaml or /etc/adit/agent.yaml)")
	fl.StringVar(&install.name, "name", "", "name of the service (default adit-server or adit-agent)")
	fl.StringVar(&install.binary, "binary", "", "the adit that it runs (default this one)")
	fl.BoolVar(&install.start, "start", true, "start it now, and at each boot")
	fl.StringVar(&install.root, "root", "", "write below this folder, and run nothing")
	fl.BoolVar(&install.dryRun, "dry-run", false, "only say what would be done")

	remove := serviceFlags{p: p}
	rc := &cobra.Command{
		Use:       "uninstall server|agent",
		Short:     "Stop a service and remove its unit; config and data stay",
		Example:   "  sudo adit service uninstall agent --name adit-shop",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{"server", "agent"},
		RunE:      func(c *cobra.Command, args []string) error { return remove.uninstall(c.Context(), args[0]) },
	}
	fl = rc.Flags()
	fl.StringVar(&remove.name, "name", "", "name of the service (default adit-server or adit-agent)")
	fl.StringVar(&remove.root, "root", "", "remove below this folder, and run nothing")
	fl.BoolVar(&remove.dryRun, "dry-run", false, "only say what would be done")
	c.AddCommand(ic, rc)
	return c
}

const (
	unitDir     = "/etc/systemd/system"
	sysusersDir = "/etc/sysusers.d"
	configDir   = "/etc/adit"
	runTimeout  = 2 * time.Minute // of systemctl, which waits until the service is ready
)

var serviceName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)

// A unitMark is in the units that the command wrote itself, and may replace.
const unitMark = "# Written by adit service install.\n"

// complete checks the flags, and fills in what was not said.
func (f *serviceFlags) complete(role string) error {
	if role != "server" && role != "agent" {
		return usagef("service %q: server and agent are allowed", role)
	}
	if f.name == "" {
		f.name = "adit-" + role
	}
	if !serviceName.MatchString(f.name) {
		return usagef("--name %q: want lower-case letters, digits and '-', beginning with a letter, 64 at most", f.name)
	}
	if f.config == "" {
		f.config = filepath.Join(configDir, role+".yaml")
	}
	if !filepath.IsAbs(f.config) {
		return usagef("--config %q: want an absolute path, since a service has no folder that it is in", f.config)
	}
	if f.root == "" && !f.dryRun {
		if os.Geteuid() != 0 {
			return errors.New("installing a service takes root: run it with sudo, or see what it would do with --dry-run")
		}
		if _, err := os.Stat("/run/systemd/system"); err != nil {
			return errors.New("this machine does not run systemd: start adit with the service manager that it has")
		}
	}
	return nil
}

func (f *serviceFlags) install(ctx context.Context, role string) error {
	if err := f.complete(role); err != nil {
		return err
	}
	if f.binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		f.binary = exe
	}
	if !filepath.IsAbs(f.binary) {
		return usagef("--binary %q: want an absolute path", f.binary)
	}
	if f.root == "" {
		// Whoever can replace it, or a folder above it, is the service.
		if err := ownedByRoot(f.binary); err != nil && !f.dryRun {
			return fmt.Errorf("%w (put it where only root writes: sudo install %s /usr/local/bin/adit)", err, f.binary)
		}
		if _, err := os.Stat(f.config); err != nil && !f.dryRun {
			return fmt.Errorf("config file: %w (write it first; adit config check %s checks it)", err, f.config)
		}
	}
	unit := systemd.Agent(f.binary, f.config)
	if role == "server" {
		unit = systemd.Server(f.binary, f.config)
	}
	unitFile := filepath.Join(unitDir, f.name+".service")
	if old, err := os.ReadFile(f.at(unitFile)); err == nil && !strings.HasPrefix(string(old), unitMark) {
		return fmt.Errorf("%s exists, and was not written by adit service install: take it away first", unitFile)
	}
	if err := f.write(filepath.Join(sysusersDir, "adit.conf"), systemd.Sysusers); err != nil {
		return err
	}
	if err := f.run(ctx, "systemd-sysusers", "adit.conf"); err != nil {
		return err
	}
	if err := f.write(unitFile, unitMark+unit); err != nil {
		return err
	}
	if err := f.run(ctx, "systemctl", "daemon-reload"); err != nil {
		return err
	}
	if !f.start {
		return nil
	}
	if err := f.run(ctx, "systemctl", "enable", "--now", f.name+".service"); err != nil {
		return fmt.Errorf("%w (journalctl -u %s says why)", err, f.name)
	}
	return nil
}

func (f *serviceFlags) uninstall(ctx context.Context, role string) error {
	if err := f.complete(role); err != nil {
		return err
	}
	unitFile := filepath.Join(unitDir, f.name+".service")
	old, err := os.ReadFile(f.at(unitFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no service %s in %s", f.name, unitDir)
	case err != nil:
		return err
	case !strings.HasPrefix(string(old), unitMark):
		return fmt.Errorf("%s was not written by adit service install: it stays", unitFile)
	}
	if err := f.run(ctx, "systemctl", "disable", "--now", f.name+".service"); err != nil {
		return err
	}
	fmt.Fprintln(f.p.out, "remove", f.at(unitFile))
	if !f.dryRun {
		if err := os.Remove(f.at(unitFile)); err != nil {
			return err
		}
	}
	return f.run(ctx, "systemctl", "daemon-reload")
}

// at is a path below --root.
func (f *serviceFlags) at(path string) string { return filepath.Join(f.root, path) }

// write writes a file whole or not at all, and says so.
func (f *serviceFlags) write(path, text string) error {
	path = f.at(path)
	fmt.Fprintln(f.p.out, "write", path)
	if f.dryRun {
		for line := range strings.Lines(text) {
			fmt.Fprint(f.p.out, "    ", line)
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".adit-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(text)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}

// run runs a command of systemd and says so.
func (f *serviceFlags) run(ctx context.Context, name string, args ...string) error {
	line := strings.Join(append([]string{name}, args...), " ")
	if f.root != "" {
		return nil
	}
	fmt.Fprintln(f.p.out, "run", line)
	if f.dryRun {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}
