package main

import (
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"adit/dialect/websocktunnel"
	"adit/policy"
	"adit/tunnel"
)

func (p *program) viewerTokenCommand() *cobra.Command {
	var id, name, keyFile, address string
	var ttl time.Duration
	var once bool
	c := &cobra.Command{
		Use:   "viewer --id ID",
		Short: "Make a token for a visitor",
		Long: "Print a token with which a visitor may enter a tunnel that an agent of this\n" +
			"machine exposes with --viewer-tokens, or with --url a link to open in a browser.\n" +
			"Programs send the token as Authorization: Bearer TOKEN.",
		Example: "  adit token viewer --id web --ttl 1h --url https://web.tunnel.example.com/\n" +
			"  curl -H \"Authorization: Bearer $(adit token viewer --id web)\" https://web.tunnel.example.com/",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if id == "" {
				return usagef("--id is missing: want the name of the tunnel, such as --id web")
			}
			if _, err := tunnel.ParseID(id); err != nil && !websocktunnel.Websocktunnel.ValidID(id) {
				return usagef("--id: %v", err)
			}
			if ttl < time.Second || ttl > 365*24*time.Hour {
				return usagef("--ttl %v: 1s to 8760h are allowed", ttl)
			}
			if once && address == "" {
				return usagef("--once: only a link can be used once: want --url too")
			}
			link, err := parseLink(address)
			if err != nil {
				return err
			}
			keys, err := p.viewerKeys(keyFile, tunnel.ID(id))
			if err != nil {
				return err
			}
			token, err := policy.MintViewer(keys[0], tunnel.ID(id), policy.Viewer{Name: name, Expires: time.Now().Add(ttl), Once: once})
			if err != nil {
				return usagef("%v", err)
			}
			if link != nil {
				q := link.Query()
				q.Set(policy.ViewerParameter, token)
				link.RawQuery = q.Encode()
				token = link.String()
			}
			_, err = fmt.Fprintln(p.out, token)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&id, "id", "", "name of the tunnel")
	f.DurationVar(&ttl, "ttl", time.Hour, "how long the token is valid")
	f.StringVar(&name, "name", "", "name of the visitor, which the token shows to who has it")
	f.StringVar(&address, "url", "", "address of the tunnel: print a link to it instead of the token alone")
	f.BoolVar(&once, "once", false, "let the link be opened once only")
	f.StringVar(&keyFile, "viewer-key-file", "", "file with the key, as the agent has it, instead of the one of this machine")
	return c
}

// parseLink parses the address that a link is made of; nil for none.
func parseLink(s string) (*url.URL, error) {
	if s == "" {
		return nil, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, usagef("--url: want the address of the tunnel, such as https://web.tunnel.example.com/")
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return u, nil
}
