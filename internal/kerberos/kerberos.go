// Package kerberos shows a proxy who asks with a ticket that the user has
// already, from kinit or from logging in to this machine: a token of SPNEGO (RFC
// 4178) with Kerberos (RFC 4120) in it, for Negotiate in HTTP (RFC 4559).
//
//	t := kerberos.New(os.Getenv)
//	token, err := t.Token(ctx, "proxy.example.com")
package kerberos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/spnego"
)

// pause is how long a ticket that was not to be had is not asked for again: a
// distribution centre that does not answer takes seconds each time, of which a
// way to log in that comes after this one would have to do without.
const pause = time.Minute

// Tickets are those of one user. Their methods are safe for concurrent use.
type Tickets struct {
	cache, config string // files

	mu     sync.Mutex // held while a ticket is asked for: it may be good for the next one
	client *client.Client
	read   time.Time // when the cache was, by its own time
	failed map[string]failure
}

type failure struct {
	err   error
	until time.Time
	read  time.Time // Tickets.read
}

// New returns the tickets of the environment: in the file that KRB5CCNAME
// names, or that of the user in /tmp, with the settings of KRB5_CONFIG or
// /etc/krb5.conf.
func New(getenv func(string) string) *Tickets {
	t := &Tickets{cache: getenv("KRB5CCNAME"), config: getenv("KRB5_CONFIG"), failed: make(map[string]failure)}
	if t.cache == "" {
		t.cache = fmt.Sprintf("/tmp/krb5cc_%d", os.Getuid())
	}
	if t.config == "" {
		t.config = "/etc/krb5.conf"
	}
	return t
}

// Token returns a token for HTTP on host. It may have to ask a distribution
// centre for a ticket, which takes some seconds at most for each of them, and
// does not end with ctx; nothing is asked once ctx has ended.
func (t *Tickets) Token(ctx context.Context, host string) (token []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	host = strings.ToLower(host)
	// The module trusts the files that it reads, and panics over some that are
	// cut off.
	defer func() {
		if p := recover(); p != nil {
			token, err = nil, fmt.Errorf("no ticket of Kerberos: %s or %s is malformed", t.cache, t.config)
		}
	}()
	if err := t.load(); err != nil {
		return nil, fmt.Errorf("no ticket of Kerberos: %w", err)
	}
	if f, ok := t.failed[host]; ok && time.Now().Before(f.until) && f.read.Equal(t.read) {
		return nil, f.err
	}
	delete(t.failed, host)
	token, err = t.token(host)
	if err != nil {
		err = fmt.Errorf("no ticket of Kerberos for HTTP/%s: %w", host, err)
		t.failed[host] = failure{err, time.Now().Add(pause), t.read}
	}
	return token, err
}

// load reads the cache, unless it is the same as before.
func (t *Tickets) load() error {
	kind, path, ok := strings.Cut(t.cache, ":")
	switch {
	case !ok:
		path = t.cache
	case kind != "FILE":
		return fmt.Errorf("the cache is of the kind %.20q: adit reads those of the kind FILE alone", kind)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no %s (see kinit)", path)
	} else if err != nil {
		return err
	}
	if t.client != nil && t.read.Equal(info.ModTime()) {
		return nil
	}
	if t.client != nil {
		t.client.Destroy()
		t.client = nil
	}
	settings, err := config.Load(t.config)
	if err != nil {
		return fmt.Errorf("%s: %w", t.config, err)
	}
	cache, err := credentials.LoadCCache(path)
	if err != nil {
		return err
	}
	c, err := client.NewFromCCache(cache, settings, client.DisablePAFXFAST(true))
	if err != nil {
		return err
	}
	t.client, t.read = c, info.ModTime()
	return nil
}

func (t *Tickets) token(host string) ([]byte, error) {
	s := spnego.SPNEGOClient(t.client, "HTTP/"+host)
	if err := s.AcquireCred(); err != nil {
		return nil, err
	}
	token, err := s.InitSecContext()
	if err != nil {
		return nil, err
	}
	return token.Marshal()
}
