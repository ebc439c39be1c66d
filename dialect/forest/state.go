package forest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A keptSet is the file in which the tunnels survive a restart.
type keptSet struct {
	TwoPort bool // the set is of the first generation
	Tunnels []Entry
}

// keep writes the set down, before it becomes true. An error of a file that the
// configuration names is returned; the one beside the configuration may be
// where nothing can be written, and then it is only said.
func (s *Server) keep(set []Entry, f form) error {
	if s.opts.StateFile == "" {
		return nil
	}
	b, err := json.MarshalIndent(keptSet{TwoPort: f.ports, Tunnels: set}, "", "  ")
	if err == nil {
		err = writeWhole(s.opts.StateFile, append(b, '\n'))
	}
	if err == nil {
		return nil
	}
	if s.opts.StateOptional {
		s.log.Printf("warning: the tunnels will not survive a restart: %v", err)
		return nil
	}
	return fmt.Errorf("keep the tunnels: %w", err)
}

// kept reads what keep wrote.
func (s *Server) kept() ([]Entry, form, error) {
	if s.opts.StateFile == "" {
		return nil, form{}, nil
	}
	b, err := readFile(s.opts.StateFile, maxSet)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, form{}, nil
	}
	if err != nil {
		return nil, form{}, err
	}
	var k keptSet
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, form{}, fmt.Errorf("%s: %w", s.opts.StateFile, err)
	}
	return k.Tunnels, form{ports: k.TwoPort, backPorts: k.TwoPort}, nil
}

// writeWhole replaces a file, all of it or nothing.
func writeWhole(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
