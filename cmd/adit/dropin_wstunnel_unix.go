//go:build unix

package main

import (
	"errors"
	"io"
	"log/syslog"
	"syscall"
)

// localSyslog returns a writer to this machine's syslog.
func localSyslog(tag string) (io.Writer, func(), error) {
	w, err := syslog.New(syslog.LOG_INFO, tag)
	if err != nil {
		return nil, nil, err
	}
	return w, func() { w.Close() }, nil
}

func portTaken(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL)
}
