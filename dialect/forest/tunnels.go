package forest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

const (
	maxTunnels  = 1 << 16
	maxFailover = 16       // other clients of one tunnel
	maxSet      = 16 << 20 // bytes of a set as JSON
)

// An Entry is one tunnel: who is to get what comes to a port.
type Entry struct {
	HaProxyProxyProtocol bool
	ListenAddress        string
	ListenHostnameGlob   string
	ListenPort           int
	BackEndService       string
	ClientIdentifier     string

	// FailoverClientIdentifiers are who gets visitors while ClientIdentifier
	// does not serve them, the first of them first. Originals ignore the key.
	FailoverClientIdentifiers []string `json:",omitempty"`
}

// clients are all who may get the entry's visitors, the first of them first.
func (e *Entry) clients() []string {
	return append([]string{e.ClientIdentifier}, e.FailoverClientIdentifiers...)
}

// A form is which of its generations' keys a set is written with.
type form struct {
	ports     bool // FrontEndListenPort instead of address, port and glob
	backPorts bool // BackEndPort instead of BackEndService
	proxyName bool // ProxyProtocol instead of HaProxyProxyProtocol
}

// A wireEntry has the keys of all generations.
type wireEntry struct {
	HaProxyProxyProtocol *bool
	ProxyProtocol        *bool
	ListenAddress        *string
	ListenHostnameGlob   string
	ListenPort           *int
	FrontEndListenPort   *int
	BackEndPort          *int
	BackEndService       string
	ClientIdentifier     string
	ClientID             string `json:"ClientId"`

	FailoverClientIdentifiers []string
}

// parseSet reads a set of tunnels, in the keys of any generation; a set in
// which nothing tells is of byDefault.
func parseSet(b []byte, byDefault form) (set []Entry, f form, null bool, err error) {
	var wire []wireEntry
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&wire); err != nil {
		return nil, f, false, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, f, false, errors.New("there are bytes behind the list")
	}
	if len(wire) > maxTunnels {
		return nil, f, false, fmt.Errorf("the set has %d tunnels, at most %d are allowed", len(wire), maxTunnels)
	}
	f = byDefault
	for _, w := range wire {
		switch {
		case w.FrontEndListenPort != nil:
			f.ports, f.backPorts = true, true
		case w.ListenPort != nil || w.ListenAddress != nil:
			f.ports, f.backPorts = false, w.BackEndPort != nil
		}
		f.proxyName = f.proxyName || w.ProxyProtocol != nil
	}
	set = make([]Entry, 0, len(wire))
	for i, w := range wire {
		if n := len(w.FailoverClientIdentifiers); n > maxFailover {
			return nil, f, false, fmt.Errorf("tunnel %d: FailoverClientIdentifiers has %d names, at most %d are allowed", i, n, maxFailover)
		}
	}
	for _, w := range wire {
		set = append(set, w.entry(f))
	}
	return set, f, wire == nil, nil
}

func (w wireEntry) entry(f form) Entry {
	e := Entry{
		ListenHostnameGlob: w.ListenHostnameGlob,
		BackEndService:     w.BackEndService,
		ClientIdentifier:   either(w.ClientIdentifier, w.ClientID),

		FailoverClientIdentifiers: w.FailoverClientIdentifiers,
	}
	for _, p := range []*bool{w.HaProxyProxyProtocol, w.ProxyProtocol} {
		e.HaProxyProxyProtocol = e.HaProxyProxyProtocol || p != nil && *p
	}
	if w.ListenAddress != nil {
		e.ListenAddress = *w.ListenAddress
	}
	if w.ListenPort != nil {
		e.ListenPort = *w.ListenPort
	}
	if f.ports && w.FrontEndListenPort != nil {
		e.ListenPort = *w.FrontEndListenPort
	}
	if f.backPorts && w.BackEndPort != nil && e.BackEndService == "" && *w.BackEndPort > 0 {
		e.BackEndService = strconv.Itoa(*w.BackEndPort)
	}
	return e
}

// appendSet writes a set as the original answers it.
func appendSet(set []Entry, f form) ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('[')
	for i, e := range set {
		if i > 0 {
			out.WriteByte(',')
		}
		quoted := func(s string) []byte { b, _ := json.Marshal(s); return b }
		proxy := "HaProxyProxyProtocol"
		if f.proxyName {
			proxy = "ProxyProtocol"
		}
		fmt.Fprintf(&out, `{"%s":%t`, proxy, e.HaProxyProxyProtocol)
		if f.ports {
			fmt.Fprintf(&out, `,"FrontEndListenPort":%d`, e.ListenPort)
		} else {
			fmt.Fprintf(&out, `,"ListenAddress":%s,"ListenHostnameGlob":%s,"ListenPort":%d`,
				quoted(e.ListenAddress), quoted(e.ListenHostnameGlob), e.ListenPort)
		}
		if f.backPorts {
			port, _ := strconv.Atoi(e.BackEndService)
			fmt.Fprintf(&out, `,"BackEndPort":%d`, port)
		} else {
			fmt.Fprintf(&out, `,"BackEndService":%s`, quoted(e.BackEndService))
		}
		fmt.Fprintf(&out, `,"ClientIdentifier":%s`, quoted(e.ClientIdentifier))
		if len(e.FailoverClientIdentifiers) > 0 {
			all, _ := json.Marshal(e.FailoverClientIdentifiers) // strings alone
			fmt.Fprintf(&out, `,"FailoverClientIdentifiers":%s`, all)
		}
		out.WriteByte('}')
	}
	out.WriteByte(']')
	return out.Bytes(), nil
}

// A place to listen at.
type listenKey struct {
	addr netip.Addr // the zero Addr means all addresses of both families
	port int
}

func (k listenKey) network() (network, address string) {
	host := ""
	network = "tcp"
	if k.addr.IsValid() {
		host = k.addr.String()
		if k.addr.Is4() {
			network = "tcp4" // 0.0.0.0 is that alone
		}
	}
	return network, net.JoinHostPort(host, strconv.Itoa(k.port))
}

// errNoAddress is for an address that is not one.
type addressError struct{ address string }

func (e *addressError) Error() string { return fmt.Sprintf("%q is not an IP address.", e.address) }

func (e Entry) key(f form) (listenKey, error) {
	if f.ports {
		return listenKey{port: e.ListenPort}, nil
	}
	a, err := netip.ParseAddr(e.ListenAddress)
	if err != nil {
		return listenKey{}, &addressError{e.ListenAddress}
	}
	return listenKey{addr: a.Unmap(), port: e.ListenPort}, nil
}

// service is what an agent is asked for.
func (e Entry) service() string { return either(e.BackEndService, strconv.Itoa(e.ListenPort)) }

// anyName reports whether the entry takes visitors without a name, too.
func (e Entry) anyName() bool { return strings.Trim(e.ListenHostnameGlob, "*") == "" }

// pattern reports whether the entry's glob stands for several names.
func (e Entry) pattern() bool { return strings.Contains(e.ListenHostnameGlob, "*") }

// choose returns the entry for a host name, which is in lower case, or nil. Of
// those that match the most particular one wins, and the first if there are
// several: that with the most dots, after the runs of * are taken away.
func choose(entries []Entry, host string) *Entry {
	best, bestRank := -1, 0
	for i := range entries {
		glob := strings.ToLower(entries[i].ListenHostnameGlob)
		if glob != "" && !match(glob, host) {
			continue
		}
		if rank := rankOf(glob); best < 0 || rank > bestRank {
			best, bestRank = i, rank
		}
	}
	if best < 0 {
		return nil
	}
	return &entries[best]
}

func rankOf(glob string) int {
	if glob == "" {
		glob = "*"
	}
	rank := strings.Count(glob, ".")
	for i := range len(glob) {
		if glob[i] == '*' && (i == 0 || glob[i-1] != '*') {
			rank--
		}
	}
	return rank
}

// match reports whether glob, in which * stands for any characters, is host.
func match(glob, host string) bool {
	parts := strings.Split(glob, "*")
	if len(parts) == 1 {
		return glob == host
	}
	rest, ok := strings.CutPrefix(host, parts[0])
	if !ok {
		return false
	}
	for _, p := range parts[1 : len(parts)-1] {
		_, after, ok := strings.Cut(rest, p)
		if !ok {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}
