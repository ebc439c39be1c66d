//go:build !unix

package main

import (
	"errors"
	"io"
	"net"
)

// localSyslog fails: this system has none.
func localSyslog(string) (io.Writer, func(), error) {
	return nil, nil, errors.New("this system has no syslog")
}

func portTaken(err error) bool {
	var oe *net.OpError
	return errors.As(err, &oe) && oe.Addr == nil
}
