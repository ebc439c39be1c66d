package main

import (
	"fmt"

	"adit/auth"
	"adit/config"
	"adit/internal/certs"
)

// checkFiles looks at the files that the flags name as a start does, but for
// those that a start makes. The error has all that is wrong.
func (f *serverFlags) checkFiles() error {
	var problems []error
	wrong := func(flag string, err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	for flag, path := range map[string]string{
		"secret-file":           f.secretFile,
		"old-secret-file":       f.identity.oldSecretFile,
		"admin-token-file":      f.ops.admin.tokenFile,
		"admin-read-token-file": f.ops.admin.readTokenFile,
	} {
		if path != "" {
			_, err := auth.LoadSecret(path)
			wrong(flag, err)
		}
	}
	if keys := f.tls.keys; len(keys) == 0 || len(keys) == len(f.tls.certs) {
		for i, path := range f.tls.certs {
			pair := certs.Pair{Cert: path}
			if len(keys) > 0 {
				pair.Key = keys[i]
			}
			_, err := certs.Open([]certs.Pair{pair}, certs.Options{})
			wrong("tls-cert", err)
		}
	}
	var ao auth.Options
	if path := f.tls.agentCA; path != "" {
		_, err := auth.NewAuthenticator(auth.Options{Authorities: path})
		wrong("agent-ca-file", err)
		if err == nil {
			ao.Authorities = path
		}
	}
	if id := f.identity; id.jwks != "" && id.issuer != "" && id.audience != "" {
		keys, err := auth.NewKeySet(auth.KeySetOptions{Source: id.jwks, Issuer: id.issuer, Audience: id.audience})
		wrong("jwks", err)
		ao.Keys = keys
	}
	if ao.Grants = f.identity.grants; ao.Grants != "" && (ao.Authorities != "" || ao.Keys != nil) {
		_, err := auth.NewAuthenticator(ao)
		wrong("grants", err)
	}
	return config.Join(problems...)
}
