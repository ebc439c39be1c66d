// Package systemd has the units of adit's services, for the command that
// installs them; the Debian package has them from here too.
package systemd

import (
	_ "embed"
	"strings"
)

// Sysusers makes the user that the services run as; see sysusers.d(5).
//
//go:embed adit.sysusers
var Sysusers string

var (
	//go:embed adit-server.service
	server string
	//go:embed adit-agent.service
	agent string
)

// Server returns the unit of a server that runs binary with that config file.
func Server(binary, config string) string { return unit(server, binary, config) }

// Agent returns the unit of an agent that runs binary with that config file.
func Agent(binary, config string) string { return unit(agent, binary, config) }

func unit(text, binary, config string) string {
	return strings.NewReplacer("@BINARY@", quote(binary), "@CONFIG@", quote(config)).Replace(text)
}

// quote makes s one word of an ExecStart line; see systemd.service(5), "Command
// lines".
func quote(s string) string {
	s = strings.NewReplacer("%", "%%", "$", "$$", `\`, `\\`, `"`, `\"`).Replace(s)
	if strings.ContainsAny(s, " \t'\"\\;") {
		return `"` + s + `"`
	}
	return s
}
