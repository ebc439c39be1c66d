package main

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"adit/internal/certs"
)

// certFlags are the flags of adit cert.
type certFlags struct {
	out  io.Writer
	dir  string
	name string // of the files, without their ends
	ca   string
	days int
}

// Names of an authority's files.
const (
	caName    = "ca"
	certEnd   = ".crt"
	keyEnd    = ".key"
	caDays    = 3650
	leafDays  = 825
	maxDays   = 36500
	oneDay    = 24 * time.Hour
	certSteps = "  adit cert ca\n  adit cert server tunnel.example.com\n  adit cert client home@tunnel.example.com"
)

func (p *program) certCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "cert",
		Short: "Make an authority, and certificates for servers and clients",
		Long: "Make an authority of your own, and certificates of it for mutual TLS. A command\n" +
			"writes a certificate and a key, which only you can read, and overwrites nothing.",
		Example: certSteps,
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(p.certCACommand(), p.certServerCommand(), p.certClientCommand())
	return c
}

func (p *program) certCACommand() *cobra.Command {
	f := certFlags{out: p.out}
	c := &cobra.Command{
		Use:     "ca [NAME]",
		Short:   "Make an authority",
		Example: "  adit cert ca \"authority of example.com\" --dir /etc/adit/ca",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			name := "adit authority"
			if len(args) > 0 {
				name = args[0]
			}
			cert, key, err := f.files(caName)
			if err != nil {
				return err
			}
			made, err := certs.MakeAuthority(name, cert, key, time.Duration(f.days)*oneDay)
			return f.say(made, err, cert, key)
		},
	}
	f.add(c, caDays)
	return c
}

func (p *program) certServerCommand() *cobra.Command {
	f := certFlags{out: p.out}
	c := &cobra.Command{
		Use:     "server HOST...",
		Short:   "Make a certificate for a server with names or addresses",
		Example: "  adit cert server tunnel.example.com 203.0.113.9",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, hosts []string) error {
			for _, h := range hosts {
				if h == "" || strings.ContainsAny(h, "/@ ") {
					return usagef("%q: a hostname or an IP address is wanted", h)
				}
			}
			return f.issue("server", certs.Leaf{CommonName: hosts[0], Hosts: hosts, Server: true})
		},
	}
	f.add(c, leafDays)
	f.addCA(c)
	return c
}

func (p *program) certClientCommand() *cobra.Command {
	f := certFlags{out: p.out}
	c := &cobra.Command{
		Use:     "client ID@DOMAIN",
		Short:   "Make a certificate for a client, which is an agent or who manages a server",
		Example: "  adit cert client home@tunnel.example.com",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			id, domain, ok := strings.Cut(args[0], "@")
			if !ok || id == "" || domain == "" || strings.ContainsAny(args[0], "/ ") || strings.HasPrefix(id, ".") {
				return usagef("%q: an identifier and the server's Domain are wanted, such as home@tunnel.example.com", args[0])
			}
			return f.issue(id, certs.Leaf{CommonName: args[0]})
		},
	}
	f.add(c, leafDays)
	f.addCA(c)
	return c
}

func (f *certFlags) add(c *cobra.Command, days int) {
	fl := c.Flags()
	fl.StringVar(&f.dir, "dir", ".", "folder for the files")
	fl.StringVar(&f.name, "name", "", "name of the files, without .crt and .key")
	fl.IntVar(&f.days, "days", days, "days that the certificate lasts")
}

func (f *certFlags) addCA(c *cobra.Command) {
	c.Flags().StringVar(&f.ca, "ca", "", "the authority's files, without .crt and .key (default ca in --dir)")
}

func (f *certFlags) files(byDefault string) (cert, key string, err error) {
	if f.days < 1 || f.days > maxDays {
		return "", "", usagef("--days %d: 1 to %d are allowed", f.days, maxDays)
	}
	if f.name == "" {
		f.name = byDefault
	}
	if f.name != filepath.Base(f.name) {
		return "", "", usagef("--name %q: a name without folders is wanted; see --dir", f.name)
	}
	base := filepath.Join(f.dir, f.name)
	return base + certEnd, base + keyEnd, nil
}

func (f *certFlags) issue(name string, l certs.Leaf) error {
	cert, key, err := f.files(name)
	if err != nil {
		return err
	}
	ca := f.ca
	if ca == "" {
		ca = filepath.Join(f.dir, caName)
	}
	l.Lasts = time.Duration(f.days) * oneDay
	made, err := certs.Issue(ca+certEnd, ca+keyEnd, l, cert, key)
	return f.say(made, err, cert, key)
}

func (f *certFlags) say(c *x509.Certificate, err error, cert, key string) error {
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f.out, "%s  certificate of %q until %s\n%s  its key, for nobody else\nserial number %s\nSHA-256 %x\n",
		cert, c.Subject.CommonName, c.NotAfter.Format(time.DateOnly), key, c.SerialNumber.Text(16), sha256.Sum256(c.Raw))
	return err
}
