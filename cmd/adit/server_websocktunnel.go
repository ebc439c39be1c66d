package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/spf13/pflag"

	"adit/auth"
	"adit/dialect/websocktunnel"
	"adit/policy"
	"adit/server"
	"adit/tunnel"
)

// serverTunnelFlags let agents of websocktunnel connect to adit server.
type serverTunnelFlags struct {
	p          *program
	secretFile string
	audience   string
	tokens     string
	owner      string
	viewers    registrantViewerFlags
}

func (f *serverTunnelFlags) add(fl *pflag.FlagSet, p *program) {
	f.p = p
	fl.StringVar(&f.secretFile, "websocktunnel-secret-file", "", "file with one or two secrets, each on a line, that tokens of websocktunnel's clients are signed with (default no such clients)")
	fl.StringVar(&f.audience, "websocktunnel-audience", "", "for whom those tokens have to be: the claim aud")
	addTunnelTokens(fl, "websocktunnel-tokens", &f.tokens)
	fl.StringVar(&f.owner, "websocktunnel-owner", auth.TunnelTokenSubject, "subject that those clients' names belong to; agents of the same subject share them, and those with the secret have the subject "+auth.SecretSubject)
	f.viewers.add(fl, "websocktunnel-")
}

// addTunnelTokens adds the flag for how strictly tokens are looked at.
func addTunnelTokens(fl *pflag.FlagSet, name string, to *string) {
	fl.StringVar(to, name, "strict", "strict: tokens as documented, for 31 days at most and with the audience if one is asked for; lax: as the original takes them")
}

func checkTunnelTokens(name, value string) error {
	if value != "strict" && value != "lax" {
		return usagef("--%s %q: strict and lax are allowed", name, value)
	}
	return nil
}

func (f *serverTunnelFlags) apply(opts *server.Options) error {
	if f.secretFile == "" {
		if f.audience != "" || f.viewers.wanted() {
			return usagef("--websocktunnel-*: of no use without --websocktunnel-secret-file")
		}
		return nil
	}
	if err := checkTunnelTokens("websocktunnel-tokens", f.tokens); err != nil {
		return err
	}
	reg := &tunnelRegistrants{flags: f}
	use, err := reg.prepare()
	if err != nil {
		return err
	}
	use()
	opts.Dialects = append(opts.Dialects, websocktunnel.New(websocktunnel.Options{Auth: reg}))
	opts.Reload = append(opts.Reload, server.Reloader{Name: "websocktunnel", Prepare: reg.prepare})
	return f.viewers.apply(f.p, opts)
}

// maxTunnelSecrets bounds a file with secrets, in bytes.
const maxTunnelSecrets = 4 << 10

// load reads the secrets.
func (f *serverTunnelFlags) load() (*auth.TunnelTokens, error) {
	b, err := auth.ReadPrivate(f.secretFile, maxTunnelSecrets)
	if err != nil {
		return nil, fmt.Errorf("--websocktunnel-secret-file: %w", err)
	}
	t, err := auth.NewTunnelTokens(auth.TunnelTokenOptions{
		Secrets:  nonEmptyLines(string(b)),
		Audience: f.audience,
		Lax:      f.tokens == "lax",
		Subject:  f.owner,
	})
	if err != nil {
		return nil, usagef("--websocktunnel-secret-file %s: %v", f.secretFile, err)
	}
	return t, nil
}

// tunnelRegistrants decides on tokens by secrets that can be read again.
type tunnelRegistrants struct {
	flags  *serverTunnelFlags
	tokens atomic.Pointer[auth.TunnelTokens]
}

// Authenticate implements dialect.Authenticator.
func (t *tunnelRegistrants) Authenticate(ctx context.Context, c auth.Claim) (*auth.Identity, error) {
	return t.tokens.Load().Authenticate(ctx, c)
}

func (t *tunnelRegistrants) prepare() (func(), error) {
	tokens, err := t.flags.load()
	if err != nil {
		return nil, err
	}
	return func() { t.tokens.Store(tokens) }, nil
}

// registrantViewerFlags ask for viewer tokens on behalf of agents that cannot
// ask for them.
type registrantViewerFlags struct {
	tokens  bool
	keyFile string
}

func (f *registrantViewerFlags) add(fl *pflag.FlagSet, prefix string) {
	fl.BoolVar(&f.tokens, prefix+"viewer-tokens", false, "viewers need a token or link, which adit token viewer makes on this machine")
	fl.StringVar(&f.keyFile, prefix+"viewer-key-file", "", "file with the key of viewer tokens, instead of one of this machine")
}

func (f *registrantViewerFlags) wanted() bool { return f.tokens || f.keyFile != "" }

// apply reads the keys once: agents that come later get others only after a
// restart, as those have that are there.
func (f *registrantViewerFlags) apply(p *program, opts *server.Options) error {
	if !f.wanted() {
		return nil
	}
	master, err := p.viewerMaster(f.keyFile)
	if err != nil {
		return err
	}
	opts.RegistrantPolicy = func(id tunnel.ID) (rules policy.Policy, err error) {
		rules.ViewerKeys, err = keysOf(master, id)
		return rules, err
	}
	_, err = opts.RegistrantPolicy("id") // finds keys of no use
	return err
}
