package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"adit/auth"
)

// inspectFlags are the flags of adit token inspect.
type inspectFlags struct {
	p      *program
	at     tokenFlags
	asJSON bool
}

func (p *program) tokenInspectCommand() *cobra.Command {
	f := inspectFlags{p: p}
	c := &cobra.Command{
		Use:   "inspect [FILE]",
		Short: "Show what a token allows, and whether it is good",
		Long: "Show what a token, or a certificate in PEM, says of itself. It is read from FILE, or\n" +
			"from standard input. Where the server's secret or its static tokens are, it is checked\n" +
			"as the server would; if it is no good the exit code is 1.",
		Example: "  adit token inspect alice.token\n  adit token inspect < alice.token",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.run(c.Context(), append(args, "-")[0])
		},
	}
	f.at.add(c.Flags(), p, true)
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	return c
}

// A verdict is what becomes of checking a credential.
type verdict struct {
	Checked string `json:"checked"`         // with what; empty if it was not
	Why     string `json:"why,omitempty"`   // it was not, or it is no good
	Code    string `json:"code,omitempty"`  // of docs/errors.md, if it is no good
	Good    *bool  `json:"valid,omitempty"` // whether it is; absent if that is not known
}

func (f *inspectFlags) run(ctx context.Context, arg string) error {
	text, err := f.p.readToken(arg)
	if err != nil {
		return err
	}
	text = strings.TrimSpace(text)
	i, err := auth.Inspect(text)
	if err != nil {
		return err
	}
	v := f.check(ctx, text, &i)
	if f.asJSON {
		err = f.printJSON(i, v)
	} else {
		f.print(i, v)
	}
	if err == nil && v.Good != nil && !*v.Good {
		return fmt.Errorf("the token is no good: %s", v.Why)
	}
	return err
}

// check looks whether the server would take the token, as far as that can be
// told here.
func (f *inspectFlags) check(ctx context.Context, text string, i *auth.Inspected) verdict {
	opts := auth.Options{Store: f.at.store()}
	tokens, err := opts.Store.Load()
	switch {
	case err != nil:
		return verdict{Why: err.Error()}
	case i.Kind == auth.KindCertificate:
		return verdict{Why: "certificates are checked by the server alone"}
	case i.Kind == auth.KindStatic:
		for _, st := range tokens.Static {
			if st.ID == i.ID {
				i.Subject, i.Issued, i.Expires, i.Scope = st.Subject, st.Created, st.Expires, st.Scope
			}
		}
		if len(tokens.Static) == 0 {
			return verdict{Why: "there are no static tokens in " + opts.Store.Path()}
		}
	case i.Algorithm != "HS256":
		return verdict{Why: "it is signed with somebody else's key (" + i.Algorithm + ")"}
	default:
		opts.SecretFiles = []string{f.at.secretPath()}
		if _, err := auth.LoadSecret(f.at.secretPath()); errors.Is(err, fs.ErrNotExist) {
			return verdict{Why: "there is no secret in " + f.at.secretPath()}
		} else if err != nil {
			return verdict{Why: err.Error()}
		}
	}
	a, err := auth.NewAuthenticator(opts)
	if err != nil {
		return verdict{Why: err.Error()}
	}
	v := verdict{Checked: f.at.secretPath()}
	if i.Kind == auth.KindStatic {
		v.Checked = opts.Store.Path()
	}
	_, err = a.Authenticate(ctx, auth.Claim{Token: text})
	good := err == nil
	v.Good = &good
	if ae, ok := errors.AsType[*auth.Error](err); ok {
		v.Code, v.Why = string(ae.Code), ae.Reason
	}
	return v
}

func (f *inspectFlags) print(i auth.Inspected, v verdict) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(f.p.out, "%-10s %s\n", name, value)
		}
	}
	moment := func(name string, t time.Time) {
		if !t.IsZero() {
			line(name, until(t))
		}
	}
	kind := map[auth.Kind]string{auth.KindJWT: "JWT, " + i.Algorithm, auth.KindStatic: "static token", auth.KindCertificate: "certificate"}[i.Kind]
	line("type", kind)
	line("id", i.ID)
	line("subject", i.Subject)
	line("issuer", i.Issuer)
	line("audience", strings.Join(i.Audience, ", "))
	moment("issued", i.Issued)
	if i.Kind != auth.KindCertificate {
		moment("not before", i.NotBefore)
	}
	if i.Subject != "" {
		line("expires", until(i.Expires))
	}
	for _, l := range scopeLines(i.Scope) {
		line(l[0], l[1])
	}
	switch {
	case v.Good == nil:
		line("signature", "not checked: "+v.Why)
	case *v.Good:
		line("signature", "checked with "+v.Checked+": the server accepts it")
	default:
		line("signature", "checked with "+v.Checked+": the server refuses it: "+v.Why)
	}
}

func (f *inspectFlags) printJSON(i auth.Inspected, v verdict) error {
	e := json.NewEncoder(f.p.out)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Type      auth.Kind         `json:"type"`
		Algorithm string            `json:"algorithm,omitempty"`
		ID        string            `json:"id,omitempty"`
		Subject   string            `json:"subject,omitempty"`
		Issuer    string            `json:"issuer,omitempty"`
		Audience  []string          `json:"audience,omitempty"`
		Issued    time.Time         `json:"issued,omitzero"`
		NotBefore time.Time         `json:"not_before,omitzero"`
		Expires   time.Time         `json:"expires,omitzero"`
		Scope     map[string]string `json:"scope,omitempty"`
		Check     verdict           `json:"check"`
	}{i.Kind, i.Algorithm, i.ID, i.Subject, i.Issuer, i.Audience, i.Issued, i.NotBefore, i.Expires, scopeMap(i.Scope), v})
}

func scopeMap(s auth.Scope) map[string]string {
	m := make(map[string]string)
	for _, l := range scopeLines(s) {
		m[strings.ReplaceAll(l[0], " ", "_")] = l[1]
	}
	return m
}
