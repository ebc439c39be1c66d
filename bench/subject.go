package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Subject is one tunnel under test, as its file describes it.
type Subject struct {
	Name    string            `yaml:"name"`
	Kind    string            `yaml:"kind"` // http | tcp | udp
	About   string            `yaml:"about"`
	Vars    map[string]string `yaml:"vars"`
	Files   map[string]string `yaml:"files"`   // written into {{.Work}} before the start
	Prepare []string          `yaml:"prepare"` // run once before the start
	Server  Command           `yaml:"server"`  // the process that the visitors reach
	Client  Command           `yaml:"client"`  // the process beside the backend
	Setup   []string          `yaml:"setup"`   // run after each start of both, tried until it succeeds
	Reach   Reach             `yaml:"reach"`
	Many    *Many             `yaml:"many"`
	Skip    []string          `yaml:"skip"` // scenarios that make no sense here
	// Bulk limits the size of single HTTP bodies (bytes) for programs that
	// cannot carry more; 0: no limit.
	MaxBody int64 `yaml:"max_body"`
	file    string
}

type Command struct {
	Cmd  string            `yaml:"cmd"`
	Env  map[string]string `yaml:"env"`
	Wait string            `yaml:"wait"` // address to wait for after the start
}

type Reach struct {
	Addr    string            `yaml:"addr"`
	Host    string            `yaml:"host"`
	Prefix  string            `yaml:"prefix"`
	Headers map[string]string `yaml:"headers"`
}

// Many describes how many clients at once are started (idle, connect-storm).
type Many struct {
	N          int               `yaml:"n"`           // tunnels; overridden by -n
	PerProcess int               `yaml:"per_process"` // tunnels that one process of Client holds (default 1; 0 with all: true: N)
	All        bool              `yaml:"all"`         // one process holds all of them
	Client     Command           `yaml:"client"`      // default: the subject's client
	Files      map[string]string `yaml:"files"`       // written per process
}

func loadSubjects(dir string, names []string) ([]*Subject, error) {
	var files []string
	if len(names) == 0 {
		m, _ := filepath.Glob(filepath.Join(dir, "*.yaml"))
		files = m
	}
	for _, n := range names {
		if strings.HasSuffix(n, ".yaml") || strings.HasSuffix(n, ".json") || strings.HasSuffix(n, ".yml") {
			files = append(files, n)
			continue
		}
		m, _ := filepath.Glob(filepath.Join(dir, n+".yaml"))
		if len(m) == 0 {
			return nil, fmt.Errorf("no subject %q in %s", n, dir)
		}
		sort.Strings(m)
		files = append(files, m...)
	}
	var out []*Subject
	seen := map[string]bool{}
	for _, f := range files {
		if seen[f] {
			continue
		}
		seen[f] = true
		s, err := loadSubject(f)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func loadSubject(path string) (*Subject, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &Subject{}
	d := yaml.NewDecoder(bytes.NewReader(b)) // JSON is YAML
	d.KnownFields(true)
	if err := d.Decode(s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s.file = path
	if s.Name == "" {
		s.Name = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	}
	if s.Kind != "http" && s.Kind != "tcp" && s.Kind != "udp" {
		return nil, fmt.Errorf("%s: kind must be http, tcp or udp", path)
	}
	return s, nil
}

func (s *Subject) skips(scen string) bool {
	for _, x := range s.Skip {
		if x == scen {
			return true
		}
	}
	return false
}
