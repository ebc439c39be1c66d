package agent

import "sync"

// A portMemory is the public TCP ports that the server chose for the first of an
// agent's lanes, by service, so that the others ask for the same. Services have
// the same names on all lanes: those get the same tunnels in the same order.
type portMemory struct {
	mu    sync.Mutex // guards ports
	ports map[string]uint16
}

func (p *portMemory) get(service string) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ports[service]
}

func (p *portMemory) set(service string, port uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if port == 0 {
		return
	}
	if p.ports == nil {
		p.ports = make(map[string]uint16)
	}
	p.ports[service] = port
}
