package main

import (
	"strings"

	"github.com/spf13/pflag"

	"adit/agent"
	"adit/auth"
	"adit/config"
	"adit/forward"
)

// socksName is the upstream whose connections say themselves where they go.
const socksName = "socks"

// socksFlags are those of the upstream socks.
type socksFlags struct {
	allow []string
}

func (f *socksFlags) add(fl *pflag.FlagSet) {
	fl.StringSliceVar(&f.allow, "socks-allow", nil, "where connections to socks may go, with rules as adit server --forward has them, such as 10.0.0.0/8:*,localhost:22 (default everywhere but to this machine, its link and the metadata of clouds)")
}

// given reports whether a flag is set, which asks for the upstream socks.
func (f *socksFlags) given() bool { return len(f.allow) > 0 }

// upstream returns the upstream socks. The error has all that is wrong.
func (f *socksFlags) upstream() (*agent.Upstream, error) {
	var rules []auth.ForwardRule
	var problems []error
	for _, s := range f.allow {
		r, err := forward.ParseExitRule(strings.TrimSpace(s))
		if err != nil {
			problems = append(problems, usagef("--socks-allow: %v", err))
		}
		rules = append(rules, r)
	}
	if err := config.Join(problems...); err != nil {
		return nil, err
	}
	return agent.SocksUpstream(forward.NewExit(rules)), nil
}

// checkEntry reports why a tunnel may not be, if it leads to socks from a port
// that others than programs on the server's machine reach: those would be in the
// network of this one. rules are those for visitors of the tunnel.
func checkEntry(t agent.Tunnel, rules *policyFlags) error {
	if t.Upstream == nil || !t.Upstream.Socks() || t.Addr.IsLoopback() || len(rules.conns.allowIP) > 0 {
		return nil
	}
	return usagef("socks: whoever reaches its port on the server is in this machine's network: say with --allow-ip who may, or leave it to the server's own machine (adit forward R:socks) or to other agents (adit tcp socks --service net)")
}
