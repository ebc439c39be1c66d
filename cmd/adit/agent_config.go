package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"adit/agent"
	"adit/config"
	"adit/dialect"
	"adit/tunnel"
)

// tunnelsKey is the key of the tunnels in an agent's file.
const tunnelsKey = "tunnels"

// maxSettingFile is how much is looked at of files that settings name, in bytes.
const maxSettingFile = 1 << 20

// A tunnelFile makes tunnels of an agent's config file, again and again.
type tunnelFile struct {
	p         *program
	log       *slog.Logger
	checkOnly bool // the environment is not that of a start

	// last are the tunnels of the last time, by all of their settings: one
	// that has not changed is the very same, and stays as it is.
	last map[string]agent.Tunnel
}

// tunnels returns what a file says under tunnels. Flags of the agent that are a
// tunnel's too count for all tunnels.
func (tf *tunnelFile) tunnels(top *config.Section, fl *pflag.FlagSet) ([]agent.Tunnel, error) {
	list := top.Setting(tunnelsKey)
	if list == nil {
		return nil, top.Problem("%s is missing: want a list of what to expose, such as \"- http: 3000\"", tunnelsKey)
	}
	sections, err := list.Sections()
	problems := []error{err}
	if len(sections) == 0 && err == nil {
		return nil, list.Problem("%s is empty: want at least one, such as \"- http: 3000\"", tunnelsKey)
	}
	all := make(map[string]agent.Tunnel)
	seen := make(map[address]*config.Section)
	var tunnels []agent.Tunnel
	for _, s := range sections {
		t, spec, err := tf.tunnel(top, s, fl)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		at := addressOf(t)
		if other := seen[at]; other != nil && at.fixed() {
			problems = append(problems, s.Problem("the tunnel at %v has the same id %q and public address: give one of them another", other, t.ID))
		}
		seen[at] = s
		if same, ok := tf.last[spec]; ok {
			t = same
		}
		all[spec] = t
		tunnels = append(tunnels, t)
	}
	if err := config.Join(problems...); err != nil {
		return nil, err
	}
	tf.last = all
	return tunnels, nil
}

// tunnel returns the tunnel of one section, and all of its settings in one text.
func (tf *tunnelFile) tunnel(top, s *config.Section, all *pflag.FlagSet) (t agent.Tunnel, spec string, err error) {
	k, upstream, err := kindIn(s)
	if err != nil {
		return t, "", err
	}
	p := tf.p
	if tf.checkOnly && hasText(s.Setting("verify-webhook")) && !hasText(s.Setting("webhook-secret-file")) {
		p = &program{environ: append(p.ownEnvironment(), envWebhookSecret+unknown)}
	}
	f := p.newTunnelFlags(k.kind)
	fl := pflag.NewFlagSet(k.name, pflag.ContinueOnError)
	f.add(fl)
	if err := s.Apply(fl, k.name); err != nil {
		return t, "", err
	}
	if err := inherit(top, s, all, fl); err != nil {
		return t, "", err
	}
	if t, err = f.tunnel(upstream, tf.log); err != nil {
		return t, "", place(s.Setting(k.name), locate(top, locate(s, err)))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %q", k.name, upstream)
	for _, g := range givenFlags(fl) {
		fmt.Fprintf(&b, " %s %q", g.name, g.values)
		if strings.HasSuffix(g.name, "-file") {
			for _, path := range g.values {
				fmt.Fprintf(&b, " %x", digest(path))
			}
		}
	}
	return t, b.String(), nil
}

// digest tells whether the file at path has changed. Of one that cannot be read
// it is that of nothing: whoever needs it has said so.
func digest(path string) [sha256.Size]byte {
	f, err := os.Open(path)
	if err != nil {
		return sha256.Sum256(nil)
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, maxSettingFile))
	return sha256.Sum256(b)
}

// place puts errors that say no place of a file at a setting.
func place(st *config.Setting, err error) error {
	var all []error
	for _, e := range config.Problems(err) {
		if _, ok := errors.AsType[*config.Problem](e); !ok {
			e = st.Wrap(e.Error(), e)
		}
		all = append(all, e)
	}
	return config.Join(all...)
}

// kindIn returns the kind of a tunnel, whose name is a key of s, and the
// upstream that stands there.
func kindIn(s *config.Section) (k tunnelKind, upstream string, err error) {
	var names []string
	var found *config.Setting
	for _, kind := range tunnelKinds {
		names = append(names, kind.name)
		st := s.Setting(kind.name)
		switch {
		case st == nil:
		case found != nil:
			return k, "", st.Problem("%s: the tunnel has %s already: it is one or the other", kind.name, found.Key)
		default:
			k, found = kind, st
		}
	}
	if found == nil {
		return k, "", s.Problem("the tunnel has no upstream: want one of %s, such as \"http: 3000\"", strings.Join(names, ", "))
	}
	upstream, err = found.Text()
	return k, upstream, err
}

// inherit sets flags of a tunnel that are set for all tunnels. At the top of the
// file a setting is for tunnels that have none of their own; a flag or a
// variable beside a tunnel's own setting is refused, since either may be meant
// to be the stricter one.
func inherit(top, s *config.Section, all, fl *pflag.FlagSet) error {
	var problems []error
	all.VisitAll(func(f *pflag.Flag) {
		own := fl.Lookup(f.Name)
		if own == nil || !f.Changed {
			return
		}
		inFile := top.Setting(f.Name)
		switch {
		case !own.Changed:
			if err := setValues(own, valuesOf(f)); err != nil {
				problems = append(problems, s.Problem("%s: %v", f.Name, err))
			}
		case inFile == nil || !inFile.Applied():
			problems = append(problems, s.Setting(f.Name).Problem("%s is set by --%s or %s too: want one of them", f.Name, f.Name, envName(f.Name)))
		}
	})
	return config.Join(problems...)
}

// An address is what cannot be bound twice by one agent.
type address struct {
	id   tunnel.ID
	kind dialect.Kind
	port uint16
	name string
}

func addressOf(t agent.Tunnel) address { return address{t.ID, t.Kind, t.Port, t.Name} }

// fixed reports whether a second tunnel with that address could not be told
// apart: the server gives each TCP or UDP tunnel without a port one of its own.
func (a address) fixed() bool {
	return a.kind != dialect.TCP && a.kind != dialect.UDP || a.port != 0
}

// instanceOf tells the agent of a config file apart from others, whatever is in
// the file.
func instanceOf(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	host, _ := os.Hostname()
	machine, _ := os.ReadFile("/etc/machine-id")
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d %s", machine, host, os.Getuid(), path))
	return hex.EncodeToString(sum[:12])
}
