package forest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A ServerConfig is the server's configuration, with the keys of both
// generations and some of our own. Relative paths are relative to the working
// directory.
type ServerConfig struct {
	DebugLog bool
	UseTls   bool

	ListenPort             int    // control and management; 0 means a random one
	Domain                 string // what follows @ in certificates
	CaCertificateFilesGlob string

	// The first generation has two ports, and does not check names.
	TunnelControlPort int
	ManagementPort    int
	CaCertificateFile string

	ServerTlsCertificateFile string
	ServerTlsKeyFile         string

	// Our own, which originals ignore.

	// StateFile keeps the tunnels over a restart; empty means what the command
	// says, and "off" nowhere.
	StateFile string

	// RevokedCertificatesFile names certificates that are refused; see revoked.
	RevokedCertificatesFile string

	// ManagementCommonNames are those of certificates that may use the
	// management interface; none means every certificate, as in the original.
	ManagementCommonNames []string
}

// An AgentConfig is the agent's, called the client's by the original.
type AgentConfig struct {
	DebugLog         bool
	UseTls           bool
	ClientIdentifier string
	ClientId         string // the same, as threshold has it
	ServerAddr       string // host:port

	// The first generation.
	ServerHost              string
	ServerTunnelControlPort int
	ServerManagementPort    int
	CaCertificateFile       string

	CaCertificateFilesGlob   string
	ClientTlsCertificateFile string
	ClientTlsKeyFile         string

	ServiceToLocalAddrMap map[string]string
	AdminUnixSocket       string
}

// ParseServerConfig reads a server's JSON. unknown are keys that mean nothing.
func ParseServerConfig(b []byte) (c ServerConfig, unknown []string, err error) {
	unknown, err = parseConfig(b, &c)
	return c, unknown, err
}

// ParseAgentConfig reads an agent's JSON, and returns an error also if it does
// not say who the agent is or where the server.
func ParseAgentConfig(b []byte) (c AgentConfig, unknown []string, err error) {
	if unknown, err = parseConfig(b, &c); err != nil {
		return c, unknown, err
	}
	if c.ClientIdentifier == "" {
		c.ClientIdentifier = c.ClientId
	}
	if c.twoPort() && c.ServerAddr == "" {
		c.ServerAddr = net.JoinHostPort(c.ServerHost, strconv.Itoa(c.ServerTunnelControlPort))
	}
	switch {
	case c.ServerAddr == "":
		err = errors.New("ServerAddr is missing: it is the host and port of the server")
	case c.ClientIdentifier == "":
		err = errors.New("ClientIdentifier is missing: it is the name that tunnels refer to")
	case !validID(c.ClientIdentifier):
		err = fmt.Errorf("ClientIdentifier: got %q, want at most %d characters without spaces", c.ClientIdentifier, maxID)
	default:
		if _, _, e := net.SplitHostPort(c.ServerAddr); e != nil {
			err = fmt.Errorf("ServerAddr: got %q, want host:port", c.ServerAddr)
		}
	}
	return c, unknown, err
}

// twoPort reports whether the configuration is of the first generation.
func (c ServerConfig) twoPort() bool { return c.TunnelControlPort != 0 || c.ManagementPort != 0 }

func (c AgentConfig) twoPort() bool { return c.ServerHost != "" || c.ServerTunnelControlPort != 0 }

func (c ServerConfig) authorities() string {
	return either(c.CaCertificateFilesGlob, c.CaCertificateFile)
}
func (c AgentConfig) authorities() string {
	return either(c.CaCertificateFilesGlob, c.CaCertificateFile)
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// identity are the request's lines that say who the agent is.
func (c AgentConfig) identity() string {
	line := func(name string) string { return name + ": " + c.ClientIdentifier + "\r\n" }
	switch {
	case !c.twoPort():
		return line(headerClientID)
	case c.ServiceToLocalAddrMap != nil: // two states whose files look alike
		return line(headerClientID) + line(headerServices)
	}
	return line(headerPorts)
}

func parseConfig(b []byte, into any) (unknown []string, err error) {
	if err := json.Unmarshal(b, into); err != nil {
		return nil, fmt.Errorf("parse the configuration: %w", err)
	}
	var keys map[string]json.RawMessage
	json.Unmarshal(b, &keys) // it is an object, or the above had failed
	t := reflect.TypeOf(into).Elem()
	for key := range keys {
		if _, ok := t.FieldByNameFunc(func(name string) bool { return strings.EqualFold(name, key) }); !ok {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	return unknown, nil
}

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, which is more than %d", name, info.Size(), limit)
	}
	return os.ReadFile(name)
}
