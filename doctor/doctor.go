// Package doctor finds out what is in the way between an agent and its server:
// it takes each step of a connection by itself, measures what each carrier is
// good for, and names the culprit and the remedy. It is both sides of that.
//
// The server answers on Path, without credentials:
//
//	h := doctor.NewHandler(doctor.HandlerOptions{Version: version, Admit: admit})
//	mux.Handle(doctor.Path, h)
//	mux.Handle(doctor.Path+"/", h)
//
// The agent's side asks it:
//
//	report := doctor.Examine(ctx, doctor.Options{Server: "wss://tunnel.example.com"})
//	fmt.Println(report.Findings[0].Culprit)
package doctor

import (
	"time"
)

// Path is where a server answers, and below which.
const Path = "/_adit/doctor"

// What is below Path.
const (
	connectPath = Path + "/connect" // carriers
	carrierPath = Path + "/carrier" // the requests of those that are made of requests
	dripPath    = Path + "/drip"    // a response that takes its time
	bodyPath    = Path + "/body"    // takes a body, and says how long it was
	oncePath    = Path + "/once"    // says how often it was called with a token
)

// Subprotocol is what a carrier of the doctor's is asked for by, where it has
// such a thing.
const Subprotocol = "adit-doctor.1"

// A Status is how something went.
type Status string

const (
	OK      Status = "ok"
	Warning Status = "warning" // it works, but not as it should
	Failed  Status = "failed"
	Skipped Status = "skipped" // it was not tried
)

// A Step is a part of getting through to the server.
type Step struct {
	Name    string  `json:"name"` // resolve, dial, proxy, tls, http, requests, buffering
	Status  Status  `json:"status"`
	Text    string  `json:"text"`    // what was found, for people
	Seconds float64 `json:"seconds"` // that it took
}

// A Carrier is what one carrier is good for here.
type Carrier struct {
	Name      string  `json:"name"`
	Status    Status  `json:"status"`
	Problem   string  `json:"problem,omitempty"`   // why it is not ok
	Opened    float64 `json:"opened,omitempty"`    // seconds until it was open
	RoundTrip float64 `json:"roundTrip,omitempty"` // seconds, the median
	Up        float64 `json:"up,omitempty"`        // bytes in a second, to the server
	Down      float64 `json:"down,omitempty"`      // and from it

	// Silent is for how many seconds nothing was sent without harm, and Lasted
	// for how many it was used. Cut says that it did not survive that: the
	// connection was closed then, and by whatever is in between.
	Silent    float64 `json:"silent,omitempty"`
	SilentCut bool    `json:"silentCut,omitempty"`
	Lasted    float64 `json:"lasted,omitempty"`
	LastedCut bool    `json:"lastedCut,omitempty"`
}

// A Finding is something that is wrong, and what to do about it.
type Finding struct {
	Code     string `json:"code"` // stable; docs/doctor.md has all
	Severity Status `json:"severity"`
	Culprit  string `json:"culprit"`
	Remedy   string `json:"remedy"`
}

// A Report is what an examination has brought.
type Report struct {
	Server   string        `json:"server"`
	Version  string        `json:"serverVersion,omitempty"`
	Proxy    string        `json:"proxy,omitempty"` // without its password
	Steps    []Step        `json:"steps"`
	Carriers []Carrier     `json:"carriers"`
	Largest  int           `json:"largestBody,omitempty"` // bytes of a request that got through
	Findings []Finding     `json:"findings"`              // the worst first
	Status   Status        `json:"status"`                // of the whole
	Took     time.Duration `json:"-"`
}

// info is what the server says of itself and of whoever asks.
type info struct {
	Adit     string   `json:"adit"`              // version
	You      string   `json:"you"`               // address from which the request came
	Host     string   `json:"host"`              // that the request was for
	Secure   bool     `json:"secure"`            // the server itself has ended TLS
	Binding  string   `json:"binding,omitempty"` // of the TLS conn; see bindingOf
	Carriers []string `json:"carriers"`          // that the server takes
	QUIC     int      `json:"quic,omitempty"`    // UDP port, if it takes that too
}
