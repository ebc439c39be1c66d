//go:build unix

package main

import (
	"context"
	"os/exec"
	"syscall"
)

// shellCommand returns a command for the shell. When ctx ends it is killed with all
// that it has started.
func shellCommand(ctx context.Context, command string) *exec.Cmd {
	c := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	return c
}
