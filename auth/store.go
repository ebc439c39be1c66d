package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	storeFile    = "tokens.json"
	storeVersion = 1
	maxStoreFile = 64 << 20            // bytes
	maxRecords   = 100_000             // static tokens, and revocations as many
	keepRecord   = 30 * 24 * time.Hour // after the end, for the list
	tokenPrefix  = secretPrefix + "token_"
	digestPrefix = "sha256:"
)

// A Store keeps static tokens, of which it has digests alone, and revocations
// in a file of a data directory. Several processes may use one at a time.
type Store struct{ path string }

// OpenStore returns the store of a data directory, which need not exist yet.
func OpenStore(dir string) *Store { return &Store{filepath.Join(dir, storeFile)} }

// Path returns where the file is.
func (s *Store) Path() string { return s.path }

// A StaticToken is what the server knows of a static token.
type StaticToken struct {
	ID      string
	Subject string
	Created time.Time
	Expires time.Time // zero means never
	Revoked time.Time // zero means that it is not
	Scope   Scope

	digest digest // of the token
}

// A Revocation withdraws a credential, or all of a holder.
type Revocation struct {
	// ID is that of a token, or the fingerprint of a certificate. If it is
	// empty, Subject says whose credentials are withdrawn: those that were
	// issued up to At, and those that don't say when.
	ID      string
	Subject string

	At    time.Time // whole seconds
	Until time.Time // when what was withdrawn has expired anyway; zero if that is not known
}

// Tokens is the content of a Store.
type Tokens struct {
	Static  []StaticToken
	Revoked []Revocation

	static  map[string]*StaticToken // by ID
	ids     map[string]bool         // revoked
	holders map[string]time.Time    // revoked up to then
}

// The file as it is written.
type (
	storedFile struct {
		Version int             `json:"version"`
		Static  []storedToken   `json:"static,omitempty"`
		Revoked []storedRevoked `json:"revoked,omitempty"`
	}
	storedToken struct {
		ID      string    `json:"id"`
		Digest  string    `json:"digest"`
		Subject string    `json:"subject"`
		Created time.Time `json:"created"`
		Expires time.Time `json:"expires,omitzero"`
		Revoked time.Time `json:"revoked,omitzero"`
		Grants  grants    `json:"grants"`
	}
	storedRevoked struct {
		ID      string    `json:"id,omitempty"`
		Subject string    `json:"subject,omitempty"`
		At      time.Time `json:"at"`
		Until   time.Time `json:"until,omitzero"`
	}
)

// Load reads the store. One that is not there is empty.
func (s *Store) Load() (*Tokens, error) {
	t, err := loadTokens(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return (&Tokens{}).index()
	}
	return t, err
}

// loader returns what reads the store for a server. Once there was a file it
// has to stay: what it revoked would be valid again otherwise.
func (s *Store) loader() func(path string) (*Tokens, error) {
	load := s.Load
	return func(path string) (*Tokens, error) {
		t, err := load()
		if err == nil && len(t.Static)+len(t.Revoked) > 0 {
			load = func() (*Tokens, error) { return loadTokens(path) }
		}
		return t, err
	}
}

func loadTokens(path string) (*Tokens, error) {
	b, err := readFile(path, maxStoreFile, checkPrivate)
	if err != nil {
		return nil, fmt.Errorf("token file %s: %w", path, err)
	}
	t, err := parseTokens(b)
	if err != nil {
		return nil, fmt.Errorf("token file %s: %w", path, err)
	}
	return t, nil
}

func parseTokens(b []byte) (*Tokens, error) {
	var file storedFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // they may have been meant to narrow the rest
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("malformed: %w", err)
	}
	if d.More() {
		return nil, errors.New("malformed: there is something behind its end")
	}
	if file.Version != storeVersion {
		return nil, fmt.Errorf("has version %d: this adit knows %d", file.Version, storeVersion)
	}
	t := &Tokens{}
	for _, st := range file.Static {
		scope, err := st.Grants.scope()
		if err == nil {
			err = checkSubject(st.Subject)
		}
		if err != nil {
			return nil, fmt.Errorf("static token %q: %w", st.ID, err)
		}
		d, err := parseDigest(st.Digest)
		if err != nil {
			return nil, fmt.Errorf("static token %q: %w", st.ID, err)
		}
		t.Static = append(t.Static, StaticToken{
			ID: st.ID, Subject: st.Subject, Created: st.Created, Expires: st.Expires, Revoked: st.Revoked, Scope: scope, digest: d,
		})
	}
	for _, r := range file.Revoked {
		t.Revoked = append(t.Revoked, Revocation(r))
	}
	return t.index()
}

// index makes the contents ready to be asked.
func (t *Tokens) index() (*Tokens, error) {
	if len(t.Static) > maxRecords || len(t.Revoked) > maxRecords {
		return nil, fmt.Errorf("%d static tokens and %d revocations: at most %d of each are allowed", len(t.Static), len(t.Revoked), maxRecords)
	}
	t.static = make(map[string]*StaticToken)
	t.ids = make(map[string]bool)
	t.holders = make(map[string]time.Time)
	for i := range t.Static {
		st := &t.Static[i]
		if st.ID == "" || t.static[st.ID] != nil {
			return nil, fmt.Errorf("static token %q: its id is empty, or there twice", st.ID)
		}
		t.static[st.ID] = st
	}
	for _, r := range t.Revoked {
		switch {
		case (r.ID == "") == (r.Subject == ""):
			return nil, fmt.Errorf("revocation of id %q and subject %q: want one of them", r.ID, r.Subject)
		case r.ID != "":
			t.ids[r.ID] = true
		case r.At.After(t.holders[r.Subject]):
			t.holders[r.Subject] = r.At
		}
	}
	return t, nil
}

// revoked reports whether a credential was withdrawn.
func (t *Tokens) revoked(id, subject string, issued time.Time) bool {
	if id != "" && t.ids[id] {
		return true
	}
	at, ok := t.holders[subject]
	return ok && !issued.Truncate(time.Second).After(at)
}

// update changes the store by f, as a whole or not at all.
func (s *Store) update(f func(*Tokens) error) error {
	dir := filepath.Dir(s.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := checkDir(dir); err != nil {
		return fmt.Errorf("data directory %s: %w", dir, err)
	}
	unlock, err := lock(s.path + ".lock")
	if err != nil {
		return fmt.Errorf("token file %s: %w", s.path, err)
	}
	defer unlock()
	t, err := s.Load()
	if err != nil {
		return err
	}
	if err := f(t); err != nil {
		return err
	}
	t.forget(time.Now())
	if _, err := t.index(); err != nil {
		return fmt.Errorf("token file %s: %w", s.path, err)
	}
	b, err := json.MarshalIndent(t.stored(), "", "  ")
	if err != nil {
		return fmt.Errorf("token file %s: %w", s.path, err)
	}
	if err := replace(s.path, string(b)+"\n"); err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	return nil
}

// forget drops what has been without meaning for long.
func (t *Tokens) forget(now time.Time) {
	over := func(end time.Time) bool { return !end.IsZero() && now.After(end.Add(keepRecord)) }
	t.Static = slices.DeleteFunc(t.Static, func(st StaticToken) bool { return over(st.Expires) || over(st.Revoked) })
	t.Revoked = slices.DeleteFunc(t.Revoked, func(r Revocation) bool { return over(r.Until) })
}

func (t *Tokens) stored() storedFile {
	file := storedFile{Version: storeVersion}
	for _, st := range t.Static {
		file.Static = append(file.Static, storedToken{
			ID: st.ID, Digest: st.digest.String(), Subject: st.Subject, Created: st.Created, Expires: st.Expires, Revoked: st.Revoked, Grants: grantsOf(st.Scope),
		})
	}
	for _, r := range t.Revoked {
		file.Revoked = append(file.Revoked, storedRevoked(r))
	}
	return file
}

// CreateStatic makes a static token and keeps its digest. The token itself is
// returned this once.
func (s *Store) CreateStatic(c TokenClaims) (token string, st StaticToken, err error) {
	if err := c.Check(); err != nil {
		return "", st, fmt.Errorf("static token: %w", err)
	}
	switch {
	case c.Scope.IsZero():
		return "", st, errors.New("static token: its scope allows nothing")
	case !c.NotBefore.IsZero() || c.Audience != "":
		return "", st, errors.New("static token: it is for this server from now on: only a JWT is for another audience or a later time")
	case c.ID == "":
		c.ID = NewTokenID()
	case strings.ContainsAny(c.ID, "_"):
		return "", st, fmt.Errorf("static token: id %q contains '_'", c.ID)
	}
	token = tokenPrefix + c.ID + "_" + strings.TrimPrefix(NewSecret().value, secretPrefix)
	st = StaticToken{
		ID:      c.ID,
		Subject: c.Subject,
		Created: time.Now().UTC().Truncate(time.Second),
		Expires: c.Expires.UTC(),
		Scope:   c.Scope,
		digest:  digestOf(token),
	}
	err = s.update(func(t *Tokens) error {
		t.Static = append(t.Static, st)
		return nil
	})
	if err != nil {
		return "", StaticToken{}, err
	}
	return token, st, nil
}

// Revoke withdraws the credential with an ID, or those that a holder has so
// far if r.ID is empty. It says whether the ID is that of a static token; of
// others it cannot know whether they exist.
func (s *Store) Revoke(r Revocation) (known bool, err error) {
	switch {
	case (r.ID == "") == (r.Subject == ""):
		return false, errors.New("revoke: want either an id or a subject")
	case r.Subject == SecretSubject:
		return false, fmt.Errorf("revoke: %q stands for the shared secret: replace the secret instead", SecretSubject)
	case len(r.ID) > maxJTI || len(r.Subject) > maxSubject:
		return false, fmt.Errorf("revoke: ids take at most %d bytes, subjects %d", maxJTI, maxSubject)
	}
	if r.At.IsZero() {
		r.At = time.Now()
	}
	r.At, r.Until = r.At.UTC().Truncate(time.Second), r.Until.UTC()
	err = s.update(func(t *Tokens) error {
		for i := range t.Static {
			st := &t.Static[i]
			mine := st.ID == r.ID || r.ID == "" && st.Subject == r.Subject && !st.Created.After(r.At)
			known = known || mine
			if mine && st.Revoked.IsZero() {
				st.Revoked = r.At
			}
		}
		if r.ID != "" && known {
			return nil // the record says it
		}
		t.Revoked = slices.DeleteFunc(t.Revoked, func(old Revocation) bool { return old.ID == r.ID && old.Subject == r.Subject })
		t.Revoked = append(t.Revoked, r)
		return nil
	})
	return known, err
}
