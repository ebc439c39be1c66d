package auth

// A Scope is what an identity may do. The zero Scope allows nothing.
type Scope struct {
	IDs   []string    // patterns of IDs that may be bound: a literal, or with '*' for any run of characters
	Ports []PortRange // public TCP ports that may be bound
}

// A PortRange is inclusive at both ends.
type PortRange struct{ First, Last uint16 }
