package folder

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxListed is how many entries a listing shows at most.
const maxListed = 10_000

//go:embed list.html
var listHTML string

var listPage = template.Must(template.New("list").Parse(listHTML))

// An item is a line of a listing.
type item struct {
	Name string // with a slash behind that of a folder
	Link string
	Size string
	Time string
	dir  bool
}

// list answers with what is in dir, which goes by name. It writes nothing if it
// returns an error.
func (h *Handler) list(w http.ResponseWriter, r *http.Request, root *os.Root, dir *os.File, name string) error {
	entries, err := dir.ReadDir(maxListed + 1)
	if err != nil && len(entries) == 0 && err != io.EOF {
		return err
	}
	page := struct {
		Path  string
		Up    bool
		More  bool
		Items []item
	}{Path: r.URL.Path, Up: name != ".", More: len(entries) > maxListed}
	for _, e := range entries[:min(len(entries), maxListed)] {
		if it, ok := h.item(root, name, e); ok {
			page.Items = append(page.Items, it)
		}
	}
	slices.SortFunc(page.Items, func(a, b item) int {
		if a.dir != b.dir {
			if a.dir {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	var out bytes.Buffer
	if err := listPage.Execute(&out, page); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.Header().Set("Content-Length", fmt.Sprint(out.Len()))
	if r.Method != http.MethodHead {
		w.Write(out.Bytes())
	}
	return nil
}

// item returns the line of an entry, if it is served.
func (h *Handler) item(root *os.Root, dir string, e fs.DirEntry) (it item, ok bool) {
	if !h.shown(e.Name()) {
		return it, false
	}
	info, err := root.Stat(filepath.Join(dir, e.Name())) // where a link leads to
	if err != nil || !servable(info) {
		return it, false
	}
	it = item{
		Name: e.Name(),
		Link: "./" + url.PathEscape(e.Name()),
		Time: info.ModTime().UTC().Format("2006-01-02 15:04"),
		dir:  info.IsDir(),
	}
	if it.dir {
		it.Name += "/"
		it.Link += "/"
	} else {
		it.Size = size(info.Size())
	}
	return it, true
}

// size is for people.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if f /= 1000; f < 999.5 {
			return fmt.Sprintf("%.3g %s", f, unit)
		}
	}
	return fmt.Sprintf("%.0f EB", f/1000)
}
