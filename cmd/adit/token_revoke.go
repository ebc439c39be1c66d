package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"adit/auth"
)

// revokeFlags are the flags of adit token revoke.
type revokeFlags struct {
	p       *program
	at      tokenFlags
	subject string
	file    string
}

func (p *program) tokenRevokeCommand() *cobra.Command {
	f := revokeFlags{p: p}
	c := &cobra.Command{
		Use:   "revoke ID... | --file FILE | --subject NAME",
		Short: "Withdraw a token, or all that somebody has",
		Long: "Withdraw tokens or certificates. A running server sees it within seconds, and ends\n" +
			"the sessions that live on them. ID is what \"adit token list\" or \"inspect\" shows.",
		Example: "  adit token revoke 7kq3m2xw5tznb4ya\n  adit token revoke --file stolen.token\n  adit token revoke --subject alice",
		RunE:    func(c *cobra.Command, args []string) error { return f.run(c.Context(), args) },
	}
	fl := c.Flags()
	fl.StringVar(&f.subject, "subject", "", "withdraw all that this holder has so far")
	fl.StringVar(&f.file, "file", "", "file with the token, or the certificate in PEM; - is standard input")
	f.at.add(fl, p, false)
	return c
}

func (f *revokeFlags) run(ctx context.Context, ids []string) error {
	given := 0
	for _, is := range []bool{len(ids) > 0, f.subject != "", f.file != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return usagef("want one of IDs, --file and --subject")
	}
	if f.subject != "" {
		return f.holder(ctx)
	}
	list := make([]auth.Revocation, len(ids))
	for i, id := range ids {
		if _, err := auth.Inspect(id); err == nil {
			return usagef("argument %d is a token itself, and now in the list of processes: revoke it with --file -, or by its ID", i+1)
		}
		list[i].ID = id
	}
	if f.file != "" {
		text, err := f.p.readToken(f.file)
		if err != nil {
			return err
		}
		i, err := auth.Inspect(text)
		if i.Kind == "" {
			return err
		}
		if i.ID == "" {
			return fmt.Errorf("the token has no ID (claim jti): revoke it with --subject %q, with all others of that holder", i.Subject)
		}
		list = []auth.Revocation{{ID: i.ID, Until: i.Expires}}
	}
	for _, r := range list {
		known, err := f.at.store().Revoke(r)
		if err != nil {
			return err
		}
		what := "static token"
		if !known {
			what = "any JWT or certificate with the ID"
		}
		fmt.Fprintf(f.p.out, "revoked: %s %s\n", what, r.ID)
	}
	return nil
}

// holder withdraws all that a holder has.
func (f *revokeFlags) holder(ctx context.Context) error {
	at := time.Now()
	if _, err := f.at.store().Revoke(auth.Revocation{Subject: f.subject, At: at}); err != nil {
		return err
	}
	fmt.Fprintf(f.p.out, "revoked: all that %s has so far\n", f.subject)
	// Tokens say in whole seconds when they were made: what is made from now
	// on has to be told apart.
	next := time.NewTimer(time.Until(at.Truncate(time.Second).Add(time.Second)))
	defer next.Stop()
	select {
	case <-next.C:
	case <-ctx.Done():
	}
	return nil
}

func (p *program) tokenListCommand() *cobra.Command {
	var at tokenFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List static tokens, and what is revoked",
		Long: "List the static tokens of the server and what is revoked. JWTs are not in it: the\n" +
			"server keeps no list of them.",
		Example: "  adit token list\n  adit token list --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			tokens, err := at.store().Load()
			if err != nil {
				return err
			}
			if asJSON {
				return listJSON(p.out, tokens)
			}
			return listText(p.out, tokens)
		},
	}
	at.add(c.Flags(), p, false)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// state says in a word what a static token is worth.
func state(st auth.StaticToken) string {
	switch {
	case !st.Revoked.IsZero():
		return "revoked"
	case !st.Expires.IsZero() && time.Now().After(st.Expires):
		return "expired"
	}
	return "valid"
}

func listText(w io.Writer, tokens *auth.Tokens) error {
	if len(tokens.Static)+len(tokens.Revoked) == 0 {
		_, err := fmt.Fprintln(w, "no static tokens, and nothing is revoked")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(tokens.Static) > 0 {
		fmt.Fprintln(tw, "ID\tSUBJECT\tSTATE\tEXPIRES\tALLOWS")
	}
	for _, st := range tokens.Static {
		allows := ""
		for _, l := range scopeLines(st.Scope) {
			if allows != "" {
				allows += "; "
			}
			allows += l[0] + " " + l[1]
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", st.ID, st.Subject, state(st), until(st.Expires), allows)
	}
	if len(tokens.Revoked) > 0 {
		if len(tokens.Static) > 0 {
			fmt.Fprintln(tw)
		}
		fmt.Fprintln(tw, "REVOKED\tAT\tUNTIL")
	}
	for _, r := range tokens.Revoked {
		what, end := "id "+r.ID, until(r.Until)
		if r.ID == "" {
			what = "all of " + r.Subject + " so far"
		}
		if r.Until.IsZero() {
			end = "for ever"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", what, r.At.Local().Format(time.DateTime), end)
	}
	return tw.Flush()
}

func listJSON(w io.Writer, tokens *auth.Tokens) error {
	type static struct {
		ID      string            `json:"id"`
		Subject string            `json:"subject"`
		State   string            `json:"state"`
		Created time.Time         `json:"created"`
		Expires time.Time         `json:"expires,omitzero"`
		Revoked time.Time         `json:"revoked,omitzero"`
		Scope   map[string]string `json:"scope"`
	}
	type revoked struct {
		ID      string    `json:"id,omitempty"`
		Subject string    `json:"subject,omitempty"`
		At      time.Time `json:"at"`
		Until   time.Time `json:"until,omitzero"`
	}
	list := struct {
		Static  []static  `json:"static"`
		Revoked []revoked `json:"revoked"`
	}{[]static{}, []revoked{}}
	for _, st := range tokens.Static {
		list.Static = append(list.Static, static{st.ID, st.Subject, state(st), st.Created, st.Expires, st.Revoked, scopeMap(st.Scope)})
	}
	for _, r := range tokens.Revoked {
		list.Revoked = append(list.Revoked, revoked(r))
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(list)
}
