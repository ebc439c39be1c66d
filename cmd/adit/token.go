package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/auth"
)

const maxTokenFile = 64 << 10 // bytes

func (p *program) tokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Make, look at, revoke and list agents' tokens",
		Long: "A token allows an agent certain IDs, hostnames and public ports for some time,\n" +
			"and nothing else. Run this on the server's machine, as the server's user.",
		Example: "  adit token create --subject shop --id shop --ttl 8760h --out shop.token\n" +
			"  adit token inspect shop.token\n  adit token revoke --subject shop",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(p.tokenCreateCommand(), p.tokenInspectCommand(), p.tokenRevokeCommand(), p.tokenListCommand(),
		p.viewerTokenCommand())
	return c
}

// tokenFlags say where the server has what tokens depend on.
type tokenFlags struct {
	dataDir    string
	secretFile string
}

func (f *tokenFlags) add(fl *pflag.FlagSet, p *program, withSecret bool) {
	fl.StringVar(&f.dataDir, "data-dir", p.dataDir(), "the server's folder")
	if withSecret {
		fl.StringVar(&f.secretFile, "secret-file", "", "file with the server's secret, instead of the one in --data-dir")
	}
}

func (f *tokenFlags) store() *auth.Store { return auth.OpenStore(f.dataDir) }

// secretPath is where the server's secret is.
func (f *tokenFlags) secretPath() string {
	if f.secretFile != "" {
		return f.secretFile
	}
	return filepath.Join(f.dataDir, "secret")
}

// readToken returns the token in a file, in standard input for "-", or given
// itself.
func (p *program) readToken(arg string) (string, error) {
	if arg == "-" {
		return limited(p.in)
	}
	f, err := os.Open(arg)
	if err == nil {
		defer f.Close()
		return limited(f)
	}
	if _, static := auth.StaticTokenID(arg); static || strings.Count(arg, ".") == 2 && !strings.ContainsAny(arg, "/ ") {
		fmt.Fprintln(p.errOut, "adit: the token was on the command line, which everybody on this machine can see: better give it on standard input")
		return arg, nil
	}
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return "", fmt.Errorf("%.80s: %w", arg, pe.Err) // it might be a token after all
	}
	return "", err
}

func limited(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxTokenFile+1))
	if err == nil && len(b) > maxTokenFile {
		err = fmt.Errorf("there are more than %d bytes: that is no token", maxTokenFile)
	}
	return string(b), err
}

// until says when something ends, for people.
func until(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	left := time.Until(t).Round(time.Second)
	text := t.Local().Format("2006-01-02 15:04:05 MST")
	if left <= 0 {
		return fmt.Sprintf("%s (%s ago)", text, roughly(-left))
	}
	return fmt.Sprintf("%s (in %s)", text, roughly(left))
}

// roughly writes a duration in its largest unit or two.
func roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return d.Round(time.Second).String()
}

// scopeLines describe a scope, as flags of token create do.
func scopeLines(s auth.Scope) (lines [][2]string) {
	add := func(name string, list []string) {
		if len(list) > 0 {
			lines = append(lines, [2]string{name, strings.Join(list, ", ")})
		}
	}
	var forward []string
	for _, r := range s.Forward {
		forward = append(forward, r.String())
	}
	add("ids", s.IDs)
	add("hostnames", s.Hostnames)
	add("tcp ports", auth.PortTexts(s.Ports))
	add("udp ports", auth.PortTexts(s.UDPPorts))
	add("forward", forward)
	return lines
}
