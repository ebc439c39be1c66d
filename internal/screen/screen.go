// Package screen shows on a terminal where an agent stands: its addresses, its
// way to the server, and the latest requests. What is shown is a block at the
// end of the terminal's ordinary text that is written over in place, so that
// what was there before stays, and the last state stays when the program ends.
//
//	s, err := screen.Start(os.Stdout, style, func() screen.View { … })
//	if err != nil {
//		return err
//	}
//	defer s.Close()
//	s.Wake() // after each change
package screen

import "time"

// A View is what there is to show.
type View struct {
	Now       time.Time
	Tunnels   []Tunnel
	Phase     Phase
	Server    string        // its URL
	Reason    string        // why it is as Phase says, with what helps
	Retry     time.Time     // Waiting, Reconnecting, Refused: of the next attempt; zero while one is made
	RoundTrip time.Duration // to the server; 0 if unknown
	Carrier   string        // how it is reached; empty if unknown

	Streams    Streams
	Requested  uint64 // HTTP requests
	Reconnects int

	Requests []Request // the latest, newest last
	Logs     []Log     // the latest, newest last
	Notes    []string  // what else a person should know
}

// A Phase is where the agent stands.
type Phase string

const (
	Connecting   Phase = "connecting"
	Connected    Phase = "connected"
	Waiting      Phase = "waiting" // for the server, which was not reached yet
	Reconnecting Phase = "reconnecting"
	Refused      Phase = "refused"
	Stopping     Phase = "stopping" // and lets visitors finish
	Stopped      Phase = "stopped"
)

// A Tunnel is one upstream and where the public finds it.
type Tunnel struct {
	Name     string   // told apart by it in the list of requests
	URLs     []string // the best one first; none while it is not known
	Upstream string
	Health   Health
	Problem  string // of an upstream that is Down, or why there are no URLs
}

// A Health says whether an upstream answers.
type Health int

const (
	Unknown Health = iota
	Up
	Down
)

// Streams counts visitors' connections.
type Streams struct {
	Open  int
	Total uint64
}

// A Request is a line of the list of requests: an HTTP request, or a visitor's
// connection with something else.
type Request struct {
	Time           time.Time
	Tunnel         string
	Method, Target string        // or the protocol, and the visitor's address
	Status         int           // 0 if there is none yet, or at all
	Duration       time.Duration // of what has a status or is done
	Sent           int64         // bytes to the visitor
	Done           bool
	Broken         bool // not whole
	Left           bool // Broken by the visitor
	Conn           bool // not HTTP
}

// A Log is a message of the program.
type Log struct {
	Time  time.Time
	Level string
	Text  string
	Count int // how many times in a row
}

// A Style is how a terminal is written to.
type Style struct {
	Plain   bool // nothing but text
	Color   bool // the terminal's own 16 colours; without, bold and faint alone
	Unicode bool // what is not ASCII can be shown
}
