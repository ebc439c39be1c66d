package main

import (
	"log/slog"
	"strings"

	"github.com/spf13/pflag"

	"adit/auth"
	"adit/config"
	"adit/server"
)

// maxPerSubject is the default of --max-agents-per-subject.
const maxPerSubject = 1000

// identityFlags are the flags of adit server that say who may connect.
type identityFlags struct {
	oldSecretFile string
	jwks          string
	issuer        string
	audience      string
	grants        string
	reserved      []string
	perSubject    int
}

func (f *identityFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.oldSecretFile, "old-secret-file", "", "file with a second secret that is accepted too, while agents change from one to the other")
	fl.StringVar(&f.jwks, "jwks", "", "file or https:// URL with the public keys of somebody else who signs tokens (a JWK set: RS256, ES256, EdDSA)")
	fl.StringVar(&f.issuer, "jwt-issuer", "", "who that is: the claim iss of those tokens")
	fl.StringVar(&f.audience, "jwt-audience", "", "for whom they are: the claim aud")
	fl.StringVar(&f.grants, "grants", "", "file with rules for what certificates and the tokens of --jwks allow (default what they say themselves)")
	fl.StringSliceVar(&f.reserved, "reserved-ids", nil, "IDs, or patterns such as corp-*, that take a credential which names them")
	fl.IntVar(&f.perSubject, "max-agents-per-subject", maxPerSubject, "agents that may be connected with tokens of one subject; 0 for any number")
}

// check finds settings that would do nothing: somebody relies on them. The error
// has all of them.
func (f *identityFlags) check(authorities string) error {
	var problems []error
	wrong := func(err error) { problems = append(problems, err) }
	switch {
	case f.jwks == "" && f.issuer != "":
		wrong(usagef("--jwt-issuer is of no use without --jwks"))
	case f.jwks == "" && f.audience != "":
		wrong(usagef("--jwt-audience is of no use without --jwks"))
	case f.jwks != "" && (f.issuer == "" || f.audience == ""):
		wrong(usagef("--jwks needs --jwt-issuer and --jwt-audience: whoever has those keys may sign for others too"))
	}
	if f.grants != "" && f.jwks == "" && authorities == "" {
		wrong(usagef("--grants is of no use without --jwks or --agent-ca-file"))
	}
	if f.perSubject < 0 {
		wrong(usagef("--max-agents-per-subject %d: 0 or more is allowed", f.perSubject))
	}
	for _, p := range f.reserved {
		if err := auth.CheckPattern(p); err != nil {
			wrong(usagef("--reserved-ids: %v", err))
		}
	}
	return config.Join(problems...)
}

// apply puts the flags, which check has looked at, into the server's options.
// secretFile is the file with the secret in use, authorities that with
// certificates of those who sign agents', if there is one.
func (f *identityFlags) apply(opts *server.Options, secretFile, dataDir, authorities string, log *slog.Logger) error {
	ao := auth.Options{
		SecretFiles: []string{secretFile},
		Store:       auth.OpenStore(dataDir),
		Grants:      f.grants,
		Authorities: authorities,
		Logger:      log,
	}
	if f.oldSecretFile != "" {
		ao.SecretFiles = append(ao.SecretFiles, f.oldSecretFile)
	}
	if f.jwks != "" {
		keys, err := auth.NewKeySet(auth.KeySetOptions{Source: f.jwks, Issuer: f.issuer, Audience: f.audience})
		switch {
		case err != nil && strings.Contains(f.jwks, "://"):
			return usagef("--jwks: %v", err)
		case err != nil:
			return err
		}
		ao.Keys = keys
	}
	a, err := auth.NewAuthenticator(ao)
	if err != nil {
		return err
	}
	opts.Auth, opts.ReservedIDs, opts.MaxAgentsPerSubject = a, f.reserved, f.perSubject
	opts.Reload = append(opts.Reload, server.Reloader{Name: "credentials", Prepare: a.Prepare})
	return nil
}
