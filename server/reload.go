package server

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Reloader is a part of the server whose settings can be read again while it
// runs.
type Reloader struct {
	// Name says what it is, such as "certificates".
	Name string

	// Prepare reads the settings and checks them. It changes nothing: apply,
	// which cannot fail, puts them to use.
	Prepare func() (apply func(), err error)
}

// Reload reads again what can be read again. If something is wrong with any of
// it nothing changes, and the error names all that is wrong.
func (s *Server) Reload() error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	var errs []error
	var apply []func()
	var names []string
	for _, r := range s.opts.Reload {
		f, err := r.Prepare()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Name, err))
			continue
		}
		apply = append(apply, f)
		names = append(names, r.Name)
	}
	if err := errors.Join(errs...); err != nil {
		s.reloadFailed.Add(1)
		s.log.Error("not reloaded: everything stays as it was", "err", strings.ReplaceAll(err.Error(), "\n", "; "))
		return err
	}
	for _, f := range apply {
		f()
	}
	s.reloaded.Add(1)
	s.reloadedAt.Store(time.Now().Unix())
	s.log.Info("reloaded", "what", strings.Join(names, ", "))
	return nil
}
