package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"adit/admin"
	"adit/tunnel"
)

const (
	maxBlocks    = 10_000
	maxBlockName = 255 // bytes: IDs of some dialects are longer than those of ours
)

// blocks are the names that the operator has taken down.
type blocks struct {
	path string // where they last; empty if they do not

	mu  sync.Mutex // held while the file is written, so that it has the latest
	all map[string]admin.Block
}

// loadBlocks reads the file, if there is one.
func (s *Server) loadBlocks() error {
	b := &s.blocks
	b.all = make(map[string]admin.Block)
	if b.path == "" {
		return nil
	}
	text, err := os.ReadFile(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("server: blocked names: %w", err)
	}
	var list []admin.Block
	if err := json.Unmarshal(text, &list); err != nil {
		return fmt.Errorf("server: blocked names: %s: %w: correct or remove it", b.path, err)
	}
	for _, e := range list {
		if e.Name, err = s.blockable(e.Name); err != nil {
			return fmt.Errorf("server: blocked names: %s: %w", b.path, err)
		}
		b.all[e.Name] = e
	}
	return nil
}

// saveLocked writes the file, whole or not at all.
func (b *blocks) saveLocked(all map[string]admin.Block) error {
	if b.path == "" {
		return nil
	}
	text, err := json.MarshalIndent(sortedBlocks(all), "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(b.path), ".blocks-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(text, '\n'))
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), b.path)
}

func sortedBlocks(all map[string]admin.Block) []admin.Block {
	list := make([]admin.Block, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[name])
	}
	return list
}

// blockable returns a name in the one spelling in which it is kept: in lower
// case, and an ID for a hostname below the server's domain.
func (s *Server) blockable(name string) (string, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if id, ok := strings.CutSuffix(name, "."+s.domain); ok && !strings.Contains(id, ".") {
		name = id
	}
	bad := name == "" || len(name) > maxBlockName || strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r == '/' || r == 0x7f || r == 0xfffd
	})
	if bad {
		return "", &admin.NameError{Reason: fmt.Sprintf("name %.80q: want an ID or a hostname of 1 to %d bytes", name, maxBlockName)}
	}
	return name, nil
}

// has reports whether a hostname is blocked.
func (b *blocks) has(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.all[strings.ToLower(name)]
	return ok
}

// Blocks implements admin.Server.
func (s *Server) Blocks() []admin.Block {
	s.blocks.mu.Lock()
	defer s.blocks.mu.Unlock()
	return sortedBlocks(s.blocks.all)
}

// Block implements admin.Server.
func (s *Server) Block(b admin.Block) error {
	name, err := s.blockable(b.Name)
	if err != nil {
		return err
	}
	b.Name = name
	if b.Since.IsZero() {
		b.Since = time.Now().UTC().Truncate(time.Second)
	}
	bl := &s.blocks
	bl.mu.Lock()
	all := maps.Clone(bl.all)
	all[name] = b
	if len(all) > maxBlocks {
		err = &admin.NameError{Reason: fmt.Sprintf("%d names are blocked, which is as many as there can be", maxBlocks)}
	} else {
		err = bl.saveLocked(all)
	}
	if err != nil {
		bl.mu.Unlock()
		return err
	}
	bl.all = all
	serving := s.table.Block(name)
	bl.mu.Unlock()
	var wg sync.WaitGroup
	for _, t := range serving {
		wg.Go(func() {
			s.unlessClosing(func() { end(t, tunnel.EndDone, "the operator of the server has blocked a name of this session") })
		})
	}
	wg.Wait()
	return nil
}

// Unblock implements admin.Server.
func (s *Server) Unblock(name string) error {
	name, err := s.blockable(name)
	if err != nil {
		return err
	}
	bl := &s.blocks
	bl.mu.Lock()
	defer bl.mu.Unlock()
	if _, ok := bl.all[name]; !ok {
		return admin.ErrNotFound
	}
	all := maps.Clone(bl.all)
	delete(all, name)
	if err := bl.saveLocked(all); err != nil {
		return err
	}
	bl.all = all
	s.table.Unblock(name)
	return nil
}
