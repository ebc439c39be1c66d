package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"adit/auth"
)

const (
	defaultTTL = 30 * 24 * time.Hour
	maxTTL     = 10 * 365 * 24 * time.Hour
)

// createFlags are the flags of adit token create.
type createFlags struct {
	p         *program
	at        tokenFlags
	kind      string
	subject   string
	ids       []string
	hostnames []string
	ports     []string
	udpPorts  []string
	forward   []string
	ttl       time.Duration
	out       string
}

func (p *program) tokenCreateCommand() *cobra.Command {
	f := createFlags{p: p}
	c := &cobra.Command{
		Use:   "create --id PATTERN",
		Short: "Make a token for an agent",
		Long: "Print a token with which an agent may bind the IDs, hostnames and public ports\n" +
			"that it lists, and nothing else.\n\n" +
			"A jwt is signed with the server's secret and kept nowhere. A static token is random:\n" +
			"the server keeps a digest of it, \"adit token list\" shows it, and it may last for ever.",
		Example: "  adit token create --id 'web-*' --hostname app.example.com --ttl 24h\n" +
			"  adit token create --subject alice --id 'alice-*' --tcp-ports 2000-2999 --out alice.token\n" +
			"  adit token create --type static --subject backup --id db --tcp-ports 5432 --ttl 0s",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return f.run() },
	}
	fl := c.Flags()
	fl.StringSliceVar(&f.ids, "id", nil, "IDs that may be bound, with * for any run of characters")
	fl.StringSliceVar(&f.hostnames, "hostname", nil, "hostnames that may be bound beside those of IDs, such as app.example.com or *.example.com (default none)")
	fl.StringSliceVar(&f.ports, "tcp-ports", nil, "public TCP ports that may be bound, such as 2222,3000-3999 (default none)")
	fl.StringSliceVar(&f.udpPorts, "udp-ports", nil, "public UDP ports that may be bound, such as 51820,5000-5099 (default none)")
	fl.StringSliceVar(&f.forward, "forward", nil, "what the server may dial for the agent, such as db.internal:5432,10.0.0.0/8:* (default nothing)")
	fl.StringVar(&f.subject, "subject", "", "name of the holder, who owns what it binds; a token that is to replace another one has the same (default the token's ID)")
	fl.DurationVar(&f.ttl, "ttl", defaultTTL, "how long the token is valid; 0s for ever, if it is static")
	fl.StringVar(&f.kind, "type", string(auth.KindJWT), "jwt or static")
	fl.StringVar(&f.out, "out", "", "new file for the token, which nobody else may read (default standard output)")
	f.at.add(fl, p, true)
	return c
}

func (f *createFlags) run() error {
	claims, err := f.claims()
	if err != nil {
		return err
	}
	if f.out != "" {
		if _, err := os.Lstat(f.out); !errors.Is(err, fs.ErrNotExist) {
			return usagef("--out %q: there is something of that name", f.out)
		}
	}
	var token string
	if f.kind == string(auth.KindStatic) {
		if token, _, err = f.at.store().CreateStatic(claims); err != nil {
			return err
		}
	} else {
		secret, err := auth.LoadSecret(f.at.secretPath())
		if err != nil {
			return err
		}
		if token, err = auth.Mint(secret, claims); err != nil {
			return err
		}
	}
	if err := f.write(token); err != nil {
		return err
	}
	if f.p.console {
		fmt.Fprintf(f.p.errOut, "token %s of %s, until %s\n", claims.ID, claims.Subject, until(claims.Expires))
	}
	return nil
}

// claims checks the flags.
func (f *createFlags) claims() (c auth.TokenClaims, err error) {
	c = auth.TokenClaims{ID: auth.NewTokenID(), Subject: f.subject}
	if c.Subject == "" {
		c.Subject = c.ID
	}
	static := f.kind == string(auth.KindStatic)
	switch {
	case !static && f.kind != string(auth.KindJWT):
		return c, usagef("--type %q: jwt and static are allowed", f.kind)
	case static && f.at.secretFile != "":
		return c, usagef("--secret-file is of no use for a static token: only --data-dir is")
	case len(f.ids) == 0 && (len(f.hostnames) > 0 || len(f.ports) > 0 || len(f.udpPorts) > 0):
		return c, usagef("--id is missing: whatever an agent binds has an ID, such as 'web-*'")
	case len(f.ids) == 0 && len(f.forward) == 0:
		return c, usagef("--id is missing: want at least one ID or pattern such as 'web-*'")
	case f.ttl > maxTTL || f.ttl < time.Second && !(static && f.ttl == 0):
		return c, usagef("--ttl %v: 1s to %dh are allowed, and 0s for a static token", f.ttl, maxTTL/time.Hour)
	}
	if f.ttl > 0 {
		c.Expires = time.Now().Add(f.ttl).Truncate(time.Second)
		if f.ttl < time.Minute {
			c.Expires = time.Now().Add(f.ttl)
		}
	}
	if c.Scope, err = f.scope(); err != nil {
		return c, err
	}
	if err := c.Check(); err != nil {
		return c, usagef("%v", err)
	}
	return c, nil
}

func (f *createFlags) scope() (s auth.Scope, err error) {
	s = auth.Scope{IDs: f.ids, Hostnames: f.hostnames}
	if s.Ports, err = auth.ParsePortRanges(f.ports); err != nil {
		return s, usagef("--tcp-ports: %v", err)
	}
	if s.UDPPorts, err = auth.ParsePortRanges(f.udpPorts); err != nil {
		return s, usagef("--udp-ports: %v", err)
	}
	for _, text := range f.forward {
		r, err := auth.ParseForwardRule(text)
		if err != nil {
			return s, usagef("--forward: %v", err)
		}
		s.Forward = append(s.Forward, r)
	}
	for _, p := range f.ids {
		if err := auth.CheckPattern(p); err != nil {
			return s, usagef("--id: %v", err)
		}
	}
	for _, p := range f.hostnames {
		if err := auth.CheckHostPattern(p); err != nil {
			return s, usagef("--hostname: %v", err)
		}
	}
	return s, nil
}

// write writes the token where it is wanted.
func (f *createFlags) write(token string) error {
	if f.out == "" {
		_, err := fmt.Fprintln(f.p.out, token)
		return err
	}
	file, err := os.OpenFile(f.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, token)
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return err
}
