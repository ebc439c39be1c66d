package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// A dropIn is a program that adit stands in for: with that program's arguments,
// environment, output and exit codes, and none of adit's own.
type dropIn struct {
	name  string // of the command, and of a link to adit that is called instead
	short string
	run   func(p *program, ctx context.Context, args []string) (code int)

	// diesOfSignals is for a program that handles none: whoever has started it
	// sees that a signal has killed it. Ours does so when it has come to its end,
	// and leaves a signal alone that was to be ignored, as nohup asks.
	diesOfSignals bool
}

// dropIns is a function, since a program's help names the others.
func dropIns() []dropIn {
	return []dropIn{
		{"tcp-over-websocket", "Stand in for tcp-over-websocket", (*program).tcpOverWebsocket, true},
		{"websocktunnel", "Stand in for Taskcluster's websocktunnel, or webhooktunnel", (*program).websocktunnel, true},
		{"wst-client", "Stand in for the client of websocktunnel", (*program).wstClient, false},
		{"whclient", "Stand in for the client of webhooktunnel", (*program).whclient, false},
		{"wstunnel", "Stand in for RightScale's wstunnel", (*program).wstunnel, true},
		{"forest", "Stand in for forest/tunnel", (*program).forest, true},
	}
}

// dropInLinks are the names of links to programs whose command has another name.
var dropInLinks = map[string]string{"tunnel": "forest"}

// dropInFor returns the program that args ask for, and its arguments: name is
// what adit was called by.
func dropInFor(name string, args []string) (dropIn, []string, bool) {
	name = strings.TrimSuffix(filepath.Base(name), ".exe")
	for _, d := range dropIns() {
		switch {
		case name == d.name, dropInLinks[name] == d.name:
			return d, args, true
		case len(args) > 0 && args[0] == d.name:
			return d, args[1:], true
		}
	}
	return dropIn{}, nil, false
}

// dropInCommands are for the list of commands; run has sent what is for them
// elsewhere before they are asked.
func dropInCommands() (commands []*cobra.Command) {
	for _, d := range dropIns() {
		commands = append(commands, &cobra.Command{
			Use:                d.name,
			Short:              d.short,
			Long:               d.short + ", with that program's arguments, environment, output and exit codes, and none of adit's own. Call it with -h for what it takes.",
			DisableFlagParsing: true,
			Run:                func(*cobra.Command, []string) {},
		})
	}
	return commands
}
