//go:build !unix

package main

import (
	"errors"
	"io"
)

func dialSyslog(addr, tag string) (io.Writer, error) {
	return nil, errors.New("syslog is not supported on this system")
}
