package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"adit/agent"
	"adit/config"
)

// credentialFlags are the flags that say where an agent's credential comes
// from.
type credentialFlags struct {
	secretFile string
	stdin      bool
	command    string
	cert       string
	key        string
}

func (f *credentialFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.secretFile, "secret-file", "", "file with the secret or token, which is read again when it changes; without it "+envToken+", or the secret of a server on this machine")
	fl.BoolVar(&f.stdin, "token-stdin", false, "read tokens from standard input, one a line: each replaces the one before")
	fl.StringVar(&f.command, "token-command", "", "shell command that prints a token; it is run again before that expires, and when it is refused")
	fl.StringVar(&f.cert, "cert", "", "file with a certificate to show instead of a token, in PEM, with those that it is signed with; it is read again when it changes")
	fl.StringVar(&f.key, "key", "", "file with the key of --cert, in PEM (default the same file)")
}

// A credential is what an agent shows, and how it gets another one.
type credential struct {
	token   func() (string, error)                                 // nil if it is a certificate
	next    func(ctx context.Context, last string) (string, error) // nil if there is no better way than to ask for the token
	ready   func(ctx context.Context) error                        // waits for the first; nil if there is nothing to wait for
	refused func()                                                 // is told that the server refused it; may be nil
	cert    func() *certificateSource                              // returns one for one agent; nil if it is a token
}

// dropForEnvironment forgets what the config file says of the credential, if
// the environment has one: that goes before the file.
func (f *credentialFlags) dropForEnvironment(p *program, file *config.Section) {
	if p.getenv(envToken) == "" {
		return
	}
	fromFile := func(flag string) bool {
		st := file.Setting(flag)
		return st != nil && st.Applied()
	}
	if fromFile("secret-file") {
		f.secretFile = ""
	}
	if fromFile("token-stdin") {
		f.stdin = false
	}
	if fromFile("token-command") {
		f.command = ""
	}
}

// open checks the flags and returns where the credential comes from. It runs
// no command, and takes nothing from standard input.
func (f *credentialFlags) open(p *program, server string) (c credential, err error) {
	if err := f.check(p, server); err != nil {
		return c, err
	}
	if f.cert != "" {
		if c, err = f.certificate(); err != nil {
			return c, err
		}
	}
	token := strings.TrimSpace(p.getenv(envToken))
	switch {
	case f.stdin:
		c.ready = func(ctx context.Context) error { return p.tokensOfInput().first(ctx) }
		c.token = func() (string, error) { return p.tokensOfInput().token() }
		c.next = func(ctx context.Context, last string) (string, error) { return p.tokensOfInput().next(ctx, last) }
	case f.command != "":
		s := &commandSource{command: f.command, environ: p.ownEnvironment()}
		c.token, c.next, c.refused = s.token, s.next, s.refused
	case f.secretFile != "":
		s := &fileSource{path: f.secretFile}
		c.token, c.next = s.token, s.next
		if _, err := s.token(); err != nil {
			return c, fmt.Errorf("--secret-file: %w", err)
		}
	case token != "":
		c.token = func() (string, error) { return token, nil }
	case f.cert == "":
		s := &fileSource{path: filepath.Join(p.dataDir(), "secret")}
		c.token, c.next = s.token, s.next
		if _, err := s.token(); errors.Is(err, fs.ErrNotExist) {
			text := fmt.Sprintf("no credential: set %s, or --secret-file to a file with the server's secret or a token", envToken)
			if isLoopback(server) {
				text += fmt.Sprintf("; for a server on this machine start adit server, which makes one in %s", s.path)
			}
			return c, usagef("%s", text)
		} else if err != nil {
			return c, err
		}
	}
	return c, nil
}

// check finds flags that don't go together, and such as would do nothing.
func (f *credentialFlags) check(p *program, server string) error {
	var given []string
	for _, g := range []struct {
		name string
		is   bool
	}{{"secret-file", f.secretFile != ""}, {"token-stdin", f.stdin}, {"token-command", f.command != ""}} {
		if !g.is {
			continue
		}
		given = append(given, "--"+g.name)
		if p.getenv(envToken) != "" && p.getenv(envName(g.name)) != "" {
			return usagef("the environment has both %s and %s: want one of them", envToken, envName(g.name))
		}
	}
	switch {
	case len(given) > 1:
		return usagef("%s: want one of them", strings.Join(given, " and "))
	case f.key != "" && f.cert == "":
		return usagef("--key is of no use without --cert")
	case f.cert != "" && strings.HasPrefix(server, "ws:"), f.cert != "" && strings.HasPrefix(server, "http:"):
		return usagef("--cert is of no use with %s, which has no TLS: want wss://", strings.SplitAfter(server, "//")[0])
	case f.cert != "" && len(given) > 0:
		return usagef("--cert and %s: want one of them", given[0])
	}
	return nil
}

func (f *credentialFlags) certificate() (c credential, err error) {
	key := f.key
	if key == "" {
		key = f.cert
	}
	c.cert = func() *certificateSource { return &certificateSource{cert: f.cert, key: key} }
	if _, err := c.cert().get(); err != nil {
		return c, fmt.Errorf("--cert: %w", err)
	}
	return c, nil
}

// apply puts the credential into the options of one agent, which has its
// OnState already.
func (c credential) apply(o *agent.Options) {
	o.Token, o.NextToken = c.token, c.next
	if c.cert != nil {
		s := c.cert()
		o.TLS = o.TLS.Clone() // nil stays nil
		if o.TLS == nil {
			o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		o.TLS.GetClientCertificate, o.NextCertificate = s.show, s.changed
	}
	if c.refused != nil {
		tell := o.OnState
		o.OnState = func(s agent.State) {
			if s.Phase == agent.Refused {
				c.refused()
			}
			if tell != nil {
				tell(s)
			}
		}
	}
}

// wait waits until there is a credential at all.
func (c credential) wait(ctx context.Context, log *slog.Logger) error {
	if c.ready == nil {
		return nil
	}
	log.Info("waiting for a token on standard input")
	return c.ready(ctx)
}

// maxTokenText is the longest secret or token that an agent takes, in bytes.
const maxTokenText = 16 << 10

// parseToken returns the token in a text, which has nothing else in it. Its
// errors don't contain it.
func parseToken(text string) (string, error) {
	token := strings.TrimSpace(text)
	switch {
	case token == "":
		return "", errors.New("there is no token")
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", errors.New("there is more than a token: want it alone")
	case len(token) > maxTokenText:
		return "", fmt.Errorf("there are more than %d bytes: that is no token", maxTokenText)
	}
	return token, nil
}

// isLoopback reports whether a server's URL leads to this machine.
func isLoopback(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && a.IsLoopback()
}
