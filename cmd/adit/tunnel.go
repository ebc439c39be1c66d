package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/agent"
	"adit/config"
	"adit/dialect"
	"adit/internal/folder"
	"adit/tunnel"
)

// A tunnelKind is a way to expose something. Its name is that of the command,
// such as adit http, and in a config file the key of the upstream.
type tunnelKind struct {
	name    string
	kind    dialect.Kind
	short   string
	long    string
	example string
	sample  string // an upstream for an example of a config file
}

var tunnelKinds = []tunnelKind{
	{
		name:  "http",
		kind:  dialect.HTTP,
		short: "Expose an HTTP service",
		long: "Expose an HTTP service that this machine reaches. UPSTREAM is a port of this\n" +
			"machine, host:port, http://host:port, https://host or unix:/path; h2c://host:port\n" +
			"or, with TLS, h2://host for one that speaks HTTP/2, such as gRPC; or a folder\n" +
			"whose files are served, such as ./public.",
		example: "  adit http 3000\n  adit http ./public --listing\n" +
			"  adit http app.internal:8000 --id app --server wss://tunnel.example.com\n" +
			"  adit http h2c://localhost:50051 --hostname grpc.example.org",
		sample: "3000",
	},
	{
		name:  "tcp",
		kind:  dialect.TCP,
		short: "Expose a TCP service",
		long: "Expose a TCP service that this machine reaches on a public port of the server.\n" +
			"UPSTREAM is a port of this machine, host:port or unix:/path; or socks, where\n" +
			"connections say themselves where in this machine's network they go, with SOCKS5\n" +
			"or HTTP CONNECT.",
		example: "  adit tcp 22 --port 2222\n  adit tcp 22 --id office --service ssh\n  adit tcp db.internal:5432 --id db --server wss://tunnel.example.com\n" +
			"  adit tcp socks --id office --service net --socks-allow 10.0.0.0/8:*",
		sample: "22",
	},
	{
		name:  "udp",
		kind:  dialect.UDP,
		short: "Expose a UDP service",
		long: "Expose what takes datagrams, such as WireGuard, DNS or a game, on a public UDP port\n" +
			"of the server. UPSTREAM is a port of this machine, host:port or udp://host:port.",
		example: "  adit udp 51820 --port 51820\n  adit udp 53 --id office --service dns\n  adit udp dns.internal:53 --id dns --server wss://tunnel.example.com",
		sample:  "51820",
	},
	{
		name:  "tls",
		kind:  dialect.TLS,
		short: "Expose a service that ends TLS itself",
		long: "Expose a service that this machine reaches and that has certificates of its own:\n" +
			"the server passes on what visitors of its hostnames send, and cannot read it.\n" +
			"UPSTREAM is a port of this machine, host:port or unix:/path.",
		example: "  adit tls 443 --hostname www.example.org\n  adit tls localhost:8443 --id shop --server wss://tunnel.example.com",
		sample:  "8443",
	},
}

// tunnelFlags are the flags of one tunnel: those of adit http and its like that
// are not about the connection to the server. They are the keys of a tunnel in
// a config file too.
type tunnelFlags struct {
	kind      dialect.Kind
	id        string
	port      uint16
	name      string // of a service without visitors
	hostnames []string
	proxy     string
	folder    folder.Options
	rules     policyFlags
	does      requestFlags
	socks     socksFlags
}

func (p *program) newTunnelFlags(kind dialect.Kind) tunnelFlags {
	return tunnelFlags{kind: kind, rules: policyFlags{p: p}, does: requestFlags{p: p}}
}

func (f *tunnelFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.id, "id", "", "name of the tunnel (default made of this machine's name and the port)")
	switch f.kind {
	case dialect.HTTP:
		fl.BoolVar(&f.folder.Listing, "listing", false, "show what is in a folder without index.html")
		fl.BoolVar(&f.folder.DotFiles, "dot-files", false, "serve files of a folder whose names begin with a dot too")
		f.does.add(fl)
		f.rules.addHTTP(fl)
	case dialect.TCP:
		fl.Uint16Var(&f.port, "port", 0, "public TCP port (default one that the server chooses)")
		fl.StringVar(&f.name, "service", "", "offer it to adit forward alone, as @ID/SERVICE and without a public port")
		f.socks.add(fl)
		f.rules.addTCP(fl)
	case dialect.UDP:
		fl.Uint16Var(&f.port, "port", 0, "public UDP port (default one that the server chooses)")
		fl.StringVar(&f.name, "service", "", "offer it to adit forward alone, as @ID/SERVICE/udp and without a public port")
		f.rules.addTCP(fl)
	case dialect.TLS:
		f.rules.addTCP(fl)
	}
	if f.kind == dialect.HTTP || f.kind == dialect.TLS {
		fl.StringSliceVar(&f.hostnames, "hostname", nil, "public hostname beside <id>.<domain>, such as www.example.org, whose DNS leads to the server; may be given several times")
	}
	fl.StringVar(&f.proxy, "proxy-protocol", "", "tell the upstream who the visitor is, at the start of each connection, in the PROXY protocol: v1 or v2 (default not at all)")
	if f.kind == dialect.UDP { // to set it is an error that says why
		fl.MarkHidden("proxy-protocol")
	}
}

// tunnelSettings are the names of all flags that a tunnel may have.
func (p *program) tunnelSettings() map[string]bool {
	names := make(map[string]bool)
	for _, k := range tunnelKinds {
		f := p.newTunnelFlags(k.kind)
		fl := pflag.NewFlagSet(k.name, pflag.ContinueOnError)
		f.add(fl)
		fl.VisitAll(func(f *pflag.Flag) { names[f.Name] = true })
	}
	return names
}

// tunnel returns the tunnel of the flags to an upstream, as it was given. log
// is for upstreams that are part of the agent. The error has all that is wrong.
func (f *tunnelFlags) tunnel(upstream string, log *slog.Logger) (t agent.Tunnel, err error) {
	var problems []error
	wrong := func(err error) { problems = append(problems, err) }
	t.Kind, t.Port, t.Hostnames = f.kind, f.port, f.hostnames
	for i, h := range t.Hostnames {
		t.Hostnames[i] = strings.ToLower(strings.TrimSuffix(h, "."))
		if err := tunnel.CheckHostname(t.Hostnames[i]); err != nil {
			wrong(usagef("--hostname: %v", err))
		}
	}
	t.Upstream, err = f.upstream(upstream, log)
	wrong(err)
	id := f.id
	if id == "" && err == nil {
		id = defaultID(t.Upstream.String())
	}
	if id != "" {
		if t.ID, err = tunnel.ParseID(id); err != nil {
			wrong(usagef("--id: %v", err))
		}
	}
	if t.Upstream != nil {
		t.Upstream, err = f.fitted(t.Upstream, log)
		wrong(err)
	}
	wrong(f.rules.apply(&t))
	if f.name == "" {
		wrong(checkEntry(t, &f.rules))
		return t, config.Join(problems...)
	}
	if err := config.Join(problems...); err != nil {
		return t, err
	}
	if err := tunnel.CheckService(f.name); err != nil {
		return t, usagef("--service: %v", err)
	}
	if f.port != 0 || len(t.Policy) > 0 {
		return t, usagef("--service %s: it has no visitors, and so neither --port nor rules for them", f.name)
	}
	t.Kind, t.Name = dialect.Service, f.name
	return t, nil
}

// fitted returns the upstream with what the flags say of it.
func (f *tunnelFlags) fitted(up *agent.Upstream, log *slog.Logger) (*agent.Upstream, error) {
	if f.kind != dialect.HTTP && up.HTTP2() {
		return nil, usagef("upstream %s: it is for adit http", up)
	}
	if f.kind != dialect.UDP && up.UDP() {
		return nil, usagef("upstream %s: it is for adit udp", up)
	}
	with, err := f.introduced(up)
	if f.kind != dialect.HTTP {
		return with, err
	}
	if err == nil {
		up = with
	}
	var does error
	up, f.rules.agentErrors, does = f.does.upstream(up, log)
	return up, config.Join(err, does)
}

// introduced returns the upstream as --proxy-protocol would have it.
func (f *tunnelFlags) introduced(up *agent.Upstream) (*agent.Upstream, error) {
	version := map[string]int{"v1": 1, "v2": 2}[f.proxy]
	switch {
	case f.proxy == "":
		return up, nil
	case version == 0:
		return nil, usagef("--proxy-protocol %q: v1 and v2 are allowed", f.proxy)
	}
	with, err := up.WithProxyHeader(version)
	if err != nil {
		return nil, usagef("--proxy-protocol: %v", err)
	}
	return with, nil
}

func (f *tunnelFlags) upstream(s string, log *slog.Logger) (*agent.Upstream, error) {
	switch {
	case f.kind == dialect.HTTP && isFolder(s):
		opts := f.folder
		opts.Logger = log
		h, err := folder.New(s, opts)
		if err != nil {
			host, _, _ := strings.Cut(s, "/")
			if up, uerr := agent.ParseUpstream(host); errors.Is(err, fs.ErrNotExist) && host != "" && uerr == nil {
				return nil, fmt.Errorf("%w (for the service at %s leave the path out: http://%s)", err, up, up)
			}
			return nil, err
		}
		return agent.HandlerUpstream(h.Dir(), h), nil
	case f.folder != folder.Options{}:
		return nil, usagef("--listing and --dot-files are about folders, and %q is none: a folder is written with a slash, such as ./public", s)
	}
	switch {
	case f.kind == dialect.TCP && s == socksName:
		return f.socks.upstream()
	case f.socks.given():
		return nil, usagef("--socks-allow: it is for the upstream socks, and the one here is %q", s)
	}
	parse := agent.ParseUpstream
	if f.kind == dialect.UDP {
		parse = agent.ParseUDPUpstream
	}
	up, err := parse(s)
	if err != nil {
		if info, serr := os.Stat(s); f.kind == dialect.HTTP && serr == nil && info.IsDir() {
			return nil, usagef("%v (for the folder of that name write ./%s)", err, s)
		}
		return nil, usagef("%v", err)
	}
	return up, nil
}

// isFolder reports whether an upstream is a folder, by how it is written: with a
// slash, which no port and no host has.
func isFolder(s string) bool {
	if filepath.IsAbs(s) || s == "." || s == ".." {
		return true
	}
	return strings.Contains(filepath.ToSlash(s), "/") && !strings.Contains(s, "://") && !strings.HasPrefix(s, "unix:")
}

// tunnelCommand is the command that exposes one thing of that kind.
func (p *program) tunnelCommand(k tunnelKind) *cobra.Command {
	f := agentFlags{p: p}
	tf := p.newTunnelFlags(k.kind)
	c := &cobra.Command{
		Use:     k.name + " UPSTREAM",
		Short:   k.short,
		Long:    k.long,
		Example: k.example,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := p.newDisplay(f.screen, f.log)
			if err != nil {
				return err
			}
			t, err := tf.tunnel(args[0], d.log)
			if err != nil {
				return err
			}
			return f.runOne(c.Context(), d, t)
		},
	}
	tf.add(c.Flags())
	f.add(c.Flags())
	return c
}

// defaultID names a tunnel after this machine and the upstream's port or folder;
// the digest keeps machines of the same name apart.
func defaultID(upstream string) string {
	host, _ := os.Hostname()
	machine, _ := os.ReadFile("/etc/machine-id")
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d %s", machine, host, os.Getuid(), upstream))
	digest := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:3]))[:4]
	host, _, _ = strings.Cut(host, ".")
	what := upstream[strings.LastIndexByte(upstream, ':')+1:]
	if _, err := strconv.ParseUint(what, 10, 16); err != nil {
		what = ""
		if isFolder(upstream) || upstream == socksName {
			what = plainName(filepath.Base(upstream))
		}
	}
	return fmt.Sprintf("%.35s-%.20s-%s", cmp.Or(plainName(host), "agent"), cmp.Or(what, "x"), digest)
}

// plainName leaves of s what an ID may contain.
func plainName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return -1
	}, s)
}
