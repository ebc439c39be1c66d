package auth

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// readFile reads a regular file that check accepts.
func readFile(path string, limit int64, check func(fs.FileInfo, string) error) ([]byte, error) {
	// Before it is opened, since to open a pipe may block.
	if info, err := os.Stat(path); err != nil {
		return nil, cause(err)
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, cause(err)
	}
	if err := check(info, path); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, cause(err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("has more than %d bytes", limit)
	}
	return b, nil
}

// cause drops the path from err, which the caller names already.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// create makes a file for the owner alone, unless there is one. The file
// appears whole or not at all, also after a crash.
func create(path, content string) error {
	return place(path, content, func(tmp string) error { return os.Link(tmp, path) }) // fails if path exists, unlike a rename
}

// replace makes a file for the owner alone, instead of the one that there may
// be. Readers see one or the other, also after a crash.
func replace(path, content string) error {
	return place(path, content, func(tmp string) error { return os.Rename(tmp, path) })
}

func place(path, content string, move func(tmp string) error) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".adit-*") // 0600, O_EXCL
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(content)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := move(tmp.Name()); err != nil {
		return err
	}
	return syncDir(dir)
}

// A watched is a file whose content is in force. When a new content is wrong
// the old one stays. Its methods are safe for concurrent use.
type watched[T any] struct {
	path string
	load func(path string) (T, error)

	mu      sync.Mutex // guards the fields below
	seen    fs.FileInfo
	value   T
	version int // grows with each content
}

// watch loads a file for the first time.
func watch[T any](path string, load func(path string) (T, error)) (*watched[T], error) {
	w := &watched[T]{path: path, load: load}
	apply, err := w.prepare()
	apply()
	return w, err
}

// constant is a value that is in no file.
func constant[T any](v T) *watched[T] { return &watched[T]{value: v} }

func (w *watched[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.value
}

// reload reads the file again if it is not the one that was seen last. An error
// is returned once for each change of the file.
func (w *watched[T]) reload() error {
	if w.load == nil {
		return nil
	}
	info, _ := os.Stat(w.path) // nil if there is none
	w.mu.Lock()
	known := same(info, w.seen)
	w.mu.Unlock()
	if known {
		return nil
	}
	apply, err := w.prepare()
	apply()
	return err
}

// prepare reads the file in any case, and changes nothing: apply does. After an
// error apply only remembers the file, so that reload does not repeat it.
func (w *watched[T]) prepare() (apply func(), err error) {
	if w.load == nil {
		return func() {}, nil
	}
	info, _ := os.Stat(w.path)
	v, err := w.load(w.path)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.seen = info
		if err == nil {
			w.value = v
			w.version++
		}
	}, err
}

// at returns a number that grows with each content.
func (w *watched[T]) at() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.version
}

// same reports whether a file is as it was.
func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}
