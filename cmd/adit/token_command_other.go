//go:build !unix

package main

import (
	"context"
	"os/exec"
)

// shellCommand returns a command for the shell. When ctx ends it is killed.
func shellCommand(ctx context.Context, command string) *exec.Cmd {
	return exec.CommandContext(ctx, "cmd", "/C", command)
}
