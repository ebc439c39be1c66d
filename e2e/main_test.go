package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"adit/internal/testsignal"

	"go.uber.org/goleak"
)

// binary is the adit under test, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("skipped: these tests run real programs")
		return
	}
	testsignal.Restore()
	dir, err := os.MkdirTemp("", "adit-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "adit")
	if out, err := exec.Command("go", "build", "-o", binary, "adit/cmd/adit").CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		fmt.Fprintf(os.Stderr, "build adit/cmd/adit: %v\n%s", err, out)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// long reports whether the long variants were asked for.
func long() bool { return os.Getenv("ADIT_E2E_LONG") == "1" }
