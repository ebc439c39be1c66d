package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/spf13/pflag"

	"adit/auth"
	"adit/dialect/wstunnel"
	"adit/policy"
	"adit/server"
	"adit/tunnel"
)

// serverWstunnelFlags let clients of wstunnel connect to adit server.
type serverWstunnelFlags struct {
	p         *program
	tokenFile string
	owner     string
	viewers   registrantViewerFlags
}

func (f *serverWstunnelFlags) add(fl *pflag.FlagSet, p *program) {
	f.p = p
	fl.StringVar(&f.tokenFile, "wstunnel-token-file", "", "file with the tokens of wstunnel's clients that may connect, each on a line behind the ID that it stands for, and before its password if it has one (default no such clients)")
	fl.StringVar(&f.owner, "wstunnel-owner", auth.RendezvousSubject, "subject that those clients' names belong to; agents of the same subject share them, and those with the secret have the subject "+auth.SecretSubject)
	f.viewers.add(fl, "wstunnel-")
}

func (f *serverWstunnelFlags) apply(opts *server.Options) error {
	if f.tokenFile == "" {
		if f.viewers.wanted() {
			return usagef("--wstunnel-*: of no use without --wstunnel-token-file")
		}
		return nil
	}
	reg := &rendezvousRegistrants{flags: f}
	use, err := reg.prepare()
	if err != nil {
		return err
	}
	use()
	opts.Dialects = append(opts.Dialects, wstunnel.NewDialect(wstunnel.DialectOptions{Auth: reg}))
	opts.Reload = append(opts.Reload, server.Reloader{Name: "wstunnel", Prepare: reg.prepare})

	// Agents of other dialects are under what their flags ask for.
	others := opts.RegistrantPolicy
	if err := f.viewers.apply(f.p, opts); err != nil || !f.viewers.wanted() {
		return err
	}
	ours := opts.RegistrantPolicy
	opts.RegistrantPolicy = func(id tunnel.ID) (rules policy.Policy, err error) {
		switch {
		case reg.tokens.Load().Has(id):
			return ours(id)
		case others != nil:
			return others(id)
		}
		return rules, nil
	}
	return nil
}

// maxRendezvousFile bounds the file with tokens, in bytes.
const maxRendezvousFile = 16 << 20

// load reads the tokens.
func (f *serverWstunnelFlags) load() (*auth.RendezvousTokens, error) {
	b, err := auth.ReadPrivate(f.tokenFile, maxRendezvousFile)
	if err != nil {
		return nil, fmt.Errorf("--wstunnel-token-file: %w", err)
	}
	var tokens []auth.RendezvousToken
	for _, line := range nonEmptyLines(string(b)) {
		words := strings.Fields(line)
		if strings.HasPrefix(words[0], "#") {
			continue
		}
		if len(words) != 2 && len(words) != 3 {
			return nil, usagef("--wstunnel-token-file %s: token %d: want a line with an ID, a token, and perhaps a password", f.tokenFile, len(tokens)+1)
		}
		words = append(words, "")
		tokens = append(tokens, auth.RendezvousToken{ID: tunnel.ID(words[0]), Token: words[1], Password: words[2]})
	}
	t, err := auth.NewRendezvousTokens(tokens, f.owner)
	if err != nil {
		return nil, usagef("--wstunnel-token-file %s: %v", f.tokenFile, err)
	}
	return t, nil
}

// rendezvousRegistrants decides on tokens that can be read again.
type rendezvousRegistrants struct {
	flags  *serverWstunnelFlags
	tokens atomic.Pointer[auth.RendezvousTokens]
}

// Authenticate implements dialect.Authenticator.
func (t *rendezvousRegistrants) Authenticate(ctx context.Context, c auth.Claim) (*auth.Identity, error) {
	return t.tokens.Load().Authenticate(ctx, c)
}

func (t *rendezvousRegistrants) prepare() (func(), error) {
	tokens, err := t.flags.load()
	if err != nil {
		return nil, err
	}
	return func() { t.tokens.Store(tokens) }, nil
}
