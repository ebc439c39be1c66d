package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"

	"adit/tunnel"
)

// RendezvousSubject is the subject of all identities of RendezvousTokens, unless
// NewRendezvousTokens is given another.
const RendezvousSubject = "wstunnel"

// minRendezvous is the shortest token that clients of wstunnel can have, in bytes.
const minRendezvous = 16

// A RendezvousToken lets a client of wstunnel be one ID.
type RendezvousToken struct {
	ID       tunnel.ID
	Token    string // 16 bytes at least
	Password string // empty if the token is enough
}

// RendezvousTokens accepts the tokens of wstunnel's clients, each of which
// stands for one ID. It keeps hashes of them alone. Its methods are safe for
// concurrent use.
type RendezvousTokens struct {
	subject string
	byHash  map[[sha256.Size]byte]rendezvous
	ids     map[tunnel.ID]bool
}

type rendezvous struct {
	id       tunnel.ID
	password [sha256.Size]byte // hash
	needed   bool              // there is one
}

// NewRendezvousTokens returns a RendezvousTokens. subject owns the names of all
// these agents; empty means RendezvousSubject. The error names the first token
// that is wrong, by its number.
func NewRendezvousTokens(tokens []RendezvousToken, subject string) (*RendezvousTokens, error) {
	if subject == "" {
		subject = RendezvousSubject
	}
	t := &RendezvousTokens{subject: subject, byHash: make(map[[sha256.Size]byte]rendezvous, len(tokens)), ids: make(map[tunnel.ID]bool)}
	for i, r := range tokens {
		if _, err := tunnel.ParseID(string(r.ID)); err != nil {
			return nil, fmt.Errorf("auth: rendez-vous token %d: %w", i+1, err)
		}
		if len(r.Token) < minRendezvous || len(r.Token) > maxToken {
			return nil, fmt.Errorf("auth: rendez-vous token %d has %d bytes: %d to %d are allowed", i+1, len(r.Token), minRendezvous, maxToken)
		}
		hash := sha256.Sum256([]byte(r.Token))
		if _, twice := t.byHash[hash]; twice {
			return nil, fmt.Errorf("auth: rendez-vous token %d is there twice", i+1)
		}
		t.byHash[hash] = rendezvous{r.ID, sha256.Sum256([]byte(r.Password)), r.Password != ""}
		t.ids[r.ID] = true
	}
	return t, nil
}

// Has reports whether a token stands for id.
func (t *RendezvousTokens) Has(id tunnel.ID) bool { return t.ids[id] }

// Authenticate turns the token and password of a claim into an identity, which
// may bind the one ID in its scope. Its error is an *Error, which does not tell
// a wrong token from a wrong password.
func (t *RendezvousTokens) Authenticate(_ context.Context, c Claim) (*Identity, error) {
	if c.Token == "" {
		return nil, &Error{MissingCredential, "no credential was sent"}
	}
	r, known := t.byHash[sha256.Sum256([]byte(c.Token))]
	given := sha256.Sum256([]byte(c.Password))
	right := subtle.ConstantTimeCompare(given[:], r.password[:]) == 1
	if !known || r.needed && !right {
		return nil, &Error{InvalidCredential, "the token is none of this server's, or the password is wrong"}
	}
	return &Identity{Subject: t.subject, Scope: Scope{IDs: []string{string(r.id)}}}, nil
}
