package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
)

// A Network is how a Target is reached.
type Network string

const (
	TCP   Network = "tcp"   // a host and a port
	UDP   Network = "udp"   // a host and a port; the stream carries datagrams
	Unix  Network = "unix"  // a socket of the server's machine
	Agent Network = "agent" // a service that another agent of the server offers

	// AgentUDP is such a service that takes datagrams, which the stream carries.
	AgentUDP Network = "agent-udp"
)

// MaxSocketLen is the longest path of a unix socket, in bytes.
const MaxSocketLen = 107

// A Target is what an agent asks its server to connect a stream to. Names are
// resolved on the server.
type Target struct {
	Network Network
	Host    string // a name or an address without brackets, the path of a socket, or the ID of an agent
	Port    uint16 // of tcp and udp
	Service string // of agent and agent-udp
}

// Datagrams reports whether a stream to t carries datagrams.
func (t Target) Datagrams() bool { return t.Network == UDP || t.Network == AgentUDP }

// OfAgent reports whether t is a service that another agent offers.
func (t Target) OfAgent() bool { return t.Network == Agent || t.Network == AgentUDP }

// String returns the target as a person writes it: db.internal:5432,
// 1.1.1.1:53/udp, unix:/run/x.sock, @office/ssh or @office/dns/udp.
func (t Target) String() string {
	switch t.Network {
	case Unix:
		return "unix:" + t.Host
	case Agent:
		return "@" + t.Host + "/" + t.Service
	case AgentUDP:
		return "@" + t.Host + "/" + t.Service + "/udp"
	}
	s := net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
	if t.Network == UDP {
		s += "/udp"
	}
	return s
}

// Check reports what is malformed in t. It does not say whether anybody may go
// there.
func (t Target) Check() error {
	if strings.ContainsFunc(t.Host+t.Service, func(r rune) bool { return r <= ' ' || r == 0x7f }) && t.Network != Unix || strings.ContainsRune(t.Host, 0) {
		return fmt.Errorf("target %.80q has a character that no target has", t.Host)
	}
	switch t.Network {
	case TCP, UDP:
		switch {
		case t.Host == "":
			return errors.New("target has no host: want a name or an address")
		case len(t.Host) > MaxHostnameLen+1:
			return fmt.Errorf("host %.40q… has %d bytes: it takes at most %d", t.Host, len(t.Host), MaxHostnameLen+1)
		case t.Port == 0:
			return errors.New("port 0: 1 to 65535 are allowed")
		}
	case Unix:
		if len(t.Host) > MaxSocketLen || !path.IsAbs(t.Host) || path.Clean(t.Host) != t.Host {
			return fmt.Errorf("socket %.40q: want an absolute path of at most %d bytes, without .. in it", t.Host, MaxSocketLen)
		}
	case Agent, AgentUDP:
		if _, err := ParseID(t.Host); err != nil {
			return err
		}
		return CheckService(t.Service)
	default:
		return fmt.Errorf("network %.20q: tcp, udp, unix, agent and agent-udp are allowed", t.Network)
	}
	return nil
}

// CheckService checks the name under which an agent offers a service to other
// agents: 1 to 63 of the characters a-z, 0-9 and '-'.
func CheckService(s string) error {
	if s == "" || len(s) > MaxIDLen || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("service %.70q: it takes 1 to %d of a-z, 0-9 and '-'", s, MaxIDLen)
	}
	return nil
}

// Asked is a stream that an agent has opened to a target, not yet answered. The
// server answers it once, with Accept or Refuse; the first Write accepts too.
type Asked interface {
	net.Conn

	// Target is what the agent asked for, unchecked.
	Target() Target

	// WaitGivenUp waits until the agent does not want the stream any more,
	// which has an error that says why, or until ctx ends, which has its error.
	WaitGivenUp(ctx context.Context) error

	// Accept tells the agent that the target is connected.
	Accept() error

	// Refuse tells the agent why it is not, and closes the stream. reason is
	// for people and is cut to 256 bytes.
	Refuse(code RefuseCode, reason string) error
}
