//go:build !linux

package pacing

import "syscall"

func unpace(syscall.RawConn) {}
