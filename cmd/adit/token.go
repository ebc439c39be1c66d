package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"adit/auth"
)

func (p *program) tokenCommand() *cobra.Command {
	var secretFile, dataDir, subject string
	var ids, ports []string
	var lasts time.Duration
	c := &cobra.Command{
		Use:   "token --subject NAME --id PATTERN",
		Short: "Make a token for an agent",
		Long: "Print a token, signed with the server's secret, with which an agent may bind the\n" +
			"IDs and public TCP ports that it lists and nothing else.",
		Example: "  adit token --subject alice --id 'alice-*' --lasts 720h > alice.token\n" +
			"  adit token --subject backup --id db --tcp-ports 5432",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if secretFile == "" {
				secretFile = filepath.Join(dataDir, "secret")
			}
			switch {
			case subject == "":
				return usagef("--subject is missing: want a name for the holder, which owns what it binds")
			case len(ids) == 0:
				return usagef("--id is missing: want at least one ID or pattern such as 'alice-*'")
			case lasts < time.Second:
				return usagef("--lasts %v: at least 1s", lasts)
			}
			claims := auth.TokenClaims{Subject: subject, Expires: time.Now().Add(lasts), Scope: auth.Scope{IDs: ids}}
			for _, s := range ports {
				r, err := auth.ParsePortRange(s)
				if err != nil {
					return usagef("--tcp-ports: %v", err)
				}
				claims.Scope.Ports = append(claims.Scope.Ports, r)
			}
			secret, err := auth.LoadSecret(secretFile)
			if err != nil {
				return err
			}
			token, err := auth.Mint(secret, claims)
			if err != nil {
				return usagef("%v", err)
			}
			_, err = fmt.Fprintln(p.out, token)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&subject, "subject", "", "name of the holder")
	f.StringArrayVar(&ids, "id", nil, "ID that may be bound, with * for any run of characters; may be given several times")
	f.StringSliceVar(&ports, "tcp-ports", nil, "public TCP ports that may be bound, such as 2222,3000-3999 (default none)")
	f.DurationVar(&lasts, "lasts", 30*24*time.Hour, "how long the token is valid")
	f.StringVar(&dataDir, "data-dir", p.dataDir(), "the server's folder")
	c.AddCommand(p.viewerTokenCommand())
	f.StringVar(&secretFile, "secret-file", "", "file with the server's secret, instead of the one in --data-dir")
	return c
}
