// Package folder serves the files of a folder over HTTP, and nothing outside of
// it.
//
//	h, err := folder.New("./public", folder.Options{})
//	...
//	http.Serve(ln, h)
package folder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Options configures a Handler. The zero value is ready to use.
type Options struct {
	// Listing shows what is in folders that have no index.html. Otherwise they
	// are not found.
	Listing bool

	// DotFiles serves files and folders whose names begin with a dot, too.
	// Otherwise they are not found, but for /.well-known (RFC 8615).
	DotFiles bool

	// Logger is told of files that cannot be read. If nil, nothing is logged.
	Logger *slog.Logger
}

const (
	indexPage    = "index.html"
	notFoundPage = "404.html" // at the top of the folder
	maxNotFound  = 1 << 20    // bytes of it
)

// A Handler serves the regular files of a folder, with ranges and conditional
// requests (RFC 9110, sections 13 and 14). Its methods are safe for concurrent
// use.
//
// A path leads nowhere outside of the folder, whatever is in it; a symbolic
// link may lead to anything inside. The folder is looked up for each request,
// so that it may be replaced.
type Handler struct {
	dir  string // absolute
	opts Options
}

// New returns a handler for dir, which has to be there.
func New(dir string, opts Options) (*Handler, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("folder %q: %w", dir, err)
	}
	f, err := os.Open(abs)
	if err != nil {
		return nil, fmt.Errorf("folder %q: %w", dir, cause(err))
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("folder %q: it is no folder", dir)
	}
	return &Handler{abs, opts}, nil
}

// Dir returns the folder's absolute path.
func (h *Handler) Dir() string { return h.dir }

// ServeHTTP answers GET and HEAD.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "405 method not allowed", http.StatusMethodNotAllowed)
		return
	}
	root, err := os.OpenRoot(h.dir)
	if err != nil {
		h.opts.Logger.Error("folder not opened", "folder", h.dir, "err", cause(err))
		http.Error(w, "503 the folder is not here now", http.StatusServiceUnavailable)
		return
	}
	defer root.Close()
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache") // ask again: there is an ETag

	name, ok := h.name(r.URL.Path)
	if !ok {
		h.notFound(w, r, root)
		return
	}
	f, info, err := open(root, name)
	switch {
	case err != nil:
		h.failed(w, r, root, name, err)
		return
	case !info.IsDir():
		defer f.Close()
		if strings.HasSuffix(r.URL.Path, "/") {
			h.notFound(w, r, root)
			return
		}
		serveFile(w, r, f, info)
		return
	}
	defer f.Close()
	if !strings.HasSuffix(r.URL.Path, "/") {
		redirect(w, r, path.Base(r.URL.Path)+"/")
		return
	}
	index, info, err := open(root, filepath.Join(name, indexPage))
	switch {
	case err == nil && !info.IsDir():
		defer index.Close()
		serveFile(w, r, index, info)
	case err == nil:
		index.Close()
		fallthrough
	case errors.Is(err, fs.ErrNotExist):
		if !h.opts.Listing {
			h.notFound(w, r, root)
			return
		}
		if err := h.list(w, r, root, f, name); err != nil {
			h.failed(w, r, root, name, err)
		}
	default:
		h.failed(w, r, root, name, err)
	}
}

// name returns the name below the folder that a request's path stands for. The
// path has been decoded once, by net/http, and is not decoded again.
func (h *Handler) name(p string) (name string, ok bool) {
	p, ok = strings.CutPrefix(p, "/")
	if !ok {
		return "", false
	}
	if p = strings.TrimSuffix(p, "/"); p == "" {
		return ".", true
	}
	for i, part := range strings.Split(p, "/") {
		if !h.shown(part) && !(i == 0 && part == ".well-known") {
			return "", false
		}
	}
	name, err := filepath.Localize(p) // refuses "..", empty parts, NUL, and what the system gives a meaning to
	return name, err == nil
}

// shown reports whether a file of that name is served.
func (h *Handler) shown(name string) bool {
	return h.opts.DotFiles || !strings.HasPrefix(name, ".")
}

// open opens a regular file or a folder; what is neither does not exist. It
// never waits, as the opening of a pipe does.
func open(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	// Before it is opened, since to open a device may do something.
	if info, err := root.Stat(name); err != nil {
		return nil, nil, err
	} else if !servable(info) {
		return nil, nil, fs.ErrNotExist
	}
	f, err := root.OpenFile(name, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !servable(info) {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func servable(info fs.FileInfo) bool { return info.Mode().IsRegular() || info.IsDir() }

func serveFile(w http.ResponseWriter, r *http.Request, f *os.File, info fs.FileInfo) {
	w.Header().Set("ETag", etag(info))
	if t := mime.TypeByExtension(filepath.Ext(info.Name())); t != "" {
		w.Header().Set("Content-Type", t) // otherwise ServeContent looks at the content
	}
	http.ServeContent(w, r, info.Name(), info.ModTime(), f)
}

// etag changes whenever the file does.
func etag(info fs.FileInfo) string {
	return `"` + strconv.FormatInt(info.ModTime().UnixNano(), 36) + "-" + strconv.FormatInt(info.Size(), 36) + `"`
}

// redirect sends the visitor to a name beside the one that it asked for, with
// its query. A relative reference holds below any prefix, and never leads to
// another host.
func redirect(w http.ResponseWriter, r *http.Request, name string) {
	to := "./" + (&url.URL{Path: name}).EscapedPath()
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusMovedPermanently)
}

// failed answers with what became of a file. What leads outside of the folder
// is not there.
func (h *Handler) failed(w http.ResponseWriter, r *http.Request, root *os.Root, name string, err error) {
	switch {
	case errors.Is(err, fs.ErrPermission):
		h.opts.Logger.Warn("file not served", "folder", h.dir, "file", name, "err", cause(err))
		http.Error(w, "403 forbidden", http.StatusForbidden)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EIO):
		h.opts.Logger.Error("file not served", "folder", h.dir, "file", name, "err", cause(err))
		http.Error(w, "500 the file cannot be read now", http.StatusInternalServerError)
	default:
		h.notFound(w, r, root)
	}
}

// notFound answers with the folder's own page if it has one.
func (h *Handler) notFound(w http.ResponseWriter, r *http.Request, root *os.Root) {
	f, info, err := open(root, notFoundPage)
	if err != nil {
		http.Error(w, "404 not found", http.StatusNotFound)
		return
	}
	defer f.Close()
	if info.IsDir() || info.Size() > maxNotFound {
		http.Error(w, "404 not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusNotFound)
	if r.Method != http.MethodHead {
		io.Copy(w, io.LimitReader(f, maxNotFound))
	}
}

// cause drops the path from err, which is named already.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
