package folder

import (
	"path/filepath"
	"strings"
	"testing"
)

// FuzzName checks that no path leads outside, or to what is hidden.
func FuzzName(f *testing.F) {
	for _, s := range []string{"/", "/a", "/a/", "/../a", "/a/../b", "/.a", "/.well-known/x", "//a", "/a\x00", `/a\b`, "/./", "", "a", "/a/./b", "/\xff", "/con", "/C:/x"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, p string, dots bool) {
		h := &Handler{opts: Options{DotFiles: dots}}
		name, ok := h.name(p)
		if !ok {
			return
		}
		if name == "" || !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
			t.Errorf("%q stands for %q, which is not below the folder", p, name)
		}
		if name == "." {
			return
		}
		for i, part := range strings.Split(filepath.ToSlash(name), "/") {
			if part == "" || part == "." || part == ".." {
				t.Errorf("%q stands for %q", p, name)
			}
			if !dots && strings.HasPrefix(part, ".") && (i > 0 || part != ".well-known") {
				t.Errorf("%q stands for %q, which is hidden", p, name)
			}
		}
	})
}
