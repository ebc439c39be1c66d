//go:build unix

package folder_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"adit/internal/folder"
)

// What is neither a file nor a folder is not there, and to ask for it does not
// hang.
func TestSpecialFiles(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{"file": "x"})
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := os.Symlink("pipe", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "zero")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	makeDevice(t, filepath.Join(dir, "device"))
	addr := serve(t, dir, folder.Options{Listing: true})
	for _, name := range []string{"pipe", "sock", "link", "zero", "loop", "device"} {
		if resp, _ := ask(t, addr, "GET", "/"+name); resp.StatusCode != 404 {
			t.Errorf("GET /%s: %d, want 404", name, resp.StatusCode)
		}
	}
	_, body := ask(t, addr, "GET", "/")
	if !strings.Contains(body, ">file<") || strings.Count(body, "<tr>") != 1 {
		t.Errorf("the listing shows what is not served:\n%s", body)
	}
}

// A file that the process may not read.
func TestForbiddenFile(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := tree(t, map[string]string{"file": "SECRET"})
	if err := os.Chmod(filepath.Join(dir, "file"), 0); err != nil {
		t.Fatal(err)
	}
	if resp, _ := ask(t, serve(t, dir, folder.Options{}), "GET", "/file"); resp.StatusCode != 403 {
		t.Errorf("got %d, want 403", resp.StatusCode)
	}
}
