package server

import "cmp"

// Check reports what is wrong with opts, as New does, and opens nothing.
func Check(opts Options) error {
	s := &Server{opts: opts, domain: cmp.Or(opts.Domain, localDomain)}
	return s.check()
}
