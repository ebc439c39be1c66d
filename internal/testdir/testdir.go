// Package testdir makes folders for the sockets of tests.
package testdir

import (
	"os"
	"testing"
)

// Short is t.TempDir with a name that leaves room for that of a Unix socket in the
// folder: a socket's whole path has about a hundred bytes.
func Short(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "adit")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
