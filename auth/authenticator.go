package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// SecretSubject is the subject of whoever shows a shared secret itself.
	// No token may claim it.
	SecretSubject = "secret"

	issuerName = "jwks:" // begins the subjects of tokens under a key set
	maxSubject = 255     // bytes
	maxSecrets = 2
	lookEvery  = time.Second // at files
)

// Options configures an Authenticator. The zero value refuses everybody. What
// is in files is read again when they change; see Run.
type Options struct {
	// Secrets are what agents may show, and what tokens may be signed with,
	// and SecretFiles have one each. There are two at most together: the one
	// in use, and the one that replaces it or that it replaces.
	Secrets     []Secret
	SecretFiles []string

	// Audience, if not empty, has to be among the "aud" of a token that is
	// signed with a secret.
	Audience string

	// Store has static tokens, and what is revoked. If nil, there is neither.
	Store *Store

	// Keys verify the tokens of somebody else. If nil, there is nobody.
	Keys *KeySet

	// Authorities is a file with the certificates of those who sign agents'.
	// If empty, agents' certificates are of no use.
	Authorities string

	// Grants is a file with rules that say what certificates and the tokens of
	// Keys allow. If empty, they say so themselves.
	Grants string

	// Logger hears of files that cannot be read. If nil, nothing is logged.
	Logger *slog.Logger
}

// An Authenticator accepts a shared secret, which allows everything, a token,
// or a certificate. A token is a JWT (RFC 7519), signed with HS256 under a
// shared secret or with a key of a key set, or a static one that the store
// knows. Its methods are safe for concurrent use.
type Authenticator struct {
	log         *slog.Logger
	secrets     []*watched[Secret]
	tokens      *watched[*Tokens] // nil without a store
	keys        *KeySet
	authorities *watched[*x509.CertPool]
	grants      *watched[grantRules]

	ofSecret atomic.Pointer[Identity] // see shared

	bySecret *jwtParser // tokens under a secret
	byKeys   *jwtParser // tokens under a key set
}

// NewAuthenticator returns an Authenticator. Its error is about opts, or about
// a file.
func NewAuthenticator(opts Options) (*Authenticator, error) {
	if n := len(opts.Secrets) + len(opts.SecretFiles); n > maxSecrets {
		return nil, fmt.Errorf("auth: %d secrets: at most %d are allowed", n, maxSecrets)
	}
	if opts.Grants != "" && opts.Keys == nil && opts.Authorities == "" {
		return nil, errors.New("auth: a grants file is for certificates and key sets, and there is neither")
	}
	a := &Authenticator{log: opts.Logger, keys: opts.Keys}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	for i, s := range opts.Secrets {
		if _, err := ParseSecret(s.value); err != nil {
			return nil, fmt.Errorf("auth: secret %d: %w", i+1, err)
		}
		a.secrets = append(a.secrets, constant(s))
	}
	if err := a.watch(opts); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	var more []jwt.ParserOption
	if opts.Audience != "" {
		more = append(more, jwt.WithAudience(opts.Audience))
	}
	a.bySecret = newJWTParser([]string{algHS256}, a.secretKeys, more...)
	if opts.Keys != nil {
		a.byKeys = newJWTParser(asymmetric, opts.Keys.find, jwt.WithIssuer(opts.Keys.issuer), jwt.WithAudience(opts.Keys.audience))
	}
	return a, nil
}

// watch reads all files.
func (a *Authenticator) watch(opts Options) (err error) {
	for _, path := range opts.SecretFiles {
		s, err := watch(path, LoadSecret)
		if err != nil {
			return err
		}
		a.secrets = append(a.secrets, s)
	}
	if opts.Store != nil {
		if a.tokens, err = watch(opts.Store.path, opts.Store.loader()); err != nil {
			return err
		}
	}
	if opts.Authorities != "" {
		if a.authorities, err = watch(opts.Authorities, loadAuthorities); err != nil {
			return err
		}
	}
	if opts.Grants != "" {
		a.grants, err = watch(opts.Grants, loadGrants)
	}
	return err
}

// Authorities returns the certificates of those who sign agents', and nil if
// agents' certificates are of no use.
func (a *Authenticator) Authorities() *x509.CertPool {
	if a.authorities == nil {
		return nil
	}
	return a.authorities.get()
}

// Run keeps to what files and the key set say until ctx ends. It calls changed
// after each change; sessions should then be looked at again with Recheck.
func (a *Authenticator) Run(ctx context.Context, changed func()) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if a.keys != nil {
		wg.Go(func() { a.keys.run(ctx, a.log) })
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for seen := a.version(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := a.reload(); err != nil {
			a.logNotReloaded(err)
		}
		if v := a.version(); v != seen {
			seen = v
			a.log.Info("credentials reloaded")
			changed()
		}
	}
}

func (a *Authenticator) logNotReloaded(err error) {
	a.log.Error("credentials not reloaded, the old ones stay in force", "err", err)
}

// Prepare reads all files, whether they have changed or not, and changes
// nothing: apply puts their content in force. Run calls its changed within a
// second of that. If there is an error apply is nil.
func (a *Authenticator) Prepare() (apply func(), err error) {
	var all []func()
	var problems []error
	for _, s := range a.sources() {
		apply, err := s.prepare()
		all = append(all, apply)
		if err != nil {
			problems = append(problems, err)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return func() {
		for _, apply := range all {
			apply()
		}
		if a.keys != nil {
			a.keys.look()
		}
	}, nil
}

// A source is a file, whatever is in it.
type source interface {
	reload() error
	prepare() (apply func(), err error)
	at() int
}

func (a *Authenticator) sources() (all []source) {
	for _, s := range a.secrets {
		all = append(all, s)
	}
	if a.tokens != nil {
		all = append(all, a.tokens)
	}
	if a.keys != nil && a.keys.file != nil {
		all = append(all, a.keys.file)
	}
	if a.authorities != nil {
		all = append(all, a.authorities)
	}
	if a.grants != nil {
		all = append(all, a.grants)
	}
	return all
}

// reload reads the files that have changed.
func (a *Authenticator) reload() error {
	var problems []error
	for _, s := range a.sources() {
		if err := s.reload(); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// version returns a number that grows with each change of what is in force.
func (a *Authenticator) version() (n int) {
	for _, s := range a.sources() {
		n += s.at()
	}
	if a.keys != nil {
		n += a.keys.at()
	}
	return n
}
