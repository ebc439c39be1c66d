// Package requests makes a conn out of HTTP requests, for networks that let
// nothing else through. Its wire is docs/protocol/carriers.md.
//
// Both ends keep what they send until the other has it, and number every byte,
// so a request or an answer may be lost, sent twice, delayed or overtaken.
// Either end is a net.Conn:
//
//	d := requests.Opening{Kind: requests.Poll}
//	... // d.Body() is sent to the server, whose answer comes back
//	conn, err := d.Conn(answer, opts)
//
// and at the server, in the handler of the request that opens it and in that of
// those that follow:
//
//	conn, err := carriers.Open(w, r)
//	carriers.ServeHTTP(w, r)
package requests

import (
	"errors"
	"net/http"
	"time"
)

// A Kind is how bytes come down from the server.
type Kind string

const (
	// Stream has one long answer, which the network must not hold back.
	Stream Kind = "stream"

	// Poll has many short ones.
	Poll Kind = "poll"
)

// Valid reports whether k is one of the kinds.
func (k Kind) Valid() bool { return k == Stream || k == Poll }

// Header is the header field that makes a request one of these: its value is
// the kind in the request that opens a conn, and in the others what proves that
// they belong to it.
const Header = "Adit-Carrier"

const headerError = "Adit-Error"

// Codes of docs/errors.md.
const (
	codeUnknown = "unknown-carrier"
	codeBusy    = "busy"
	codeBad     = "bad-request"
)

const (
	frameData  = 64 << 10 // bytes in one frame from the server
	maxUp      = 1<<20 - 4<<10
	maxDown    = 4 << 20
	maxUps     = 4  // requests with bytes for the server that are on their way
	minPolls   = 2  // requests for bytes that wait at the server
	maxPolls   = 8  // and at most, when there is much to fetch
	maxAhead   = 64 // how far the numbers of polls may be apart
	maxServing = 40 // requests of one conn in the server

	windowMin   = 64 << 10
	windowFirst = 256 << 10
	windowMax   = 4 << 20
	windowFloor = 64 << 10 // what a conn may hold when the server's budget is used up
	maxEarly    = 8 << 20  // bytes that came before others that are missing
	maxUnread   = 4 << 20  // bytes that nobody has read

	idleTimeout  = 30 * time.Second // of a conn whose dialler sends nothing
	lingerFor    = 5 * time.Second  // for what was written before Close
	closeGrace   = 500 * time.Millisecond
	giveUpAfter  = 10 * time.Second // of failures alone
	upTimeout    = 6 * time.Second  // of one attempt
	bodyTimeout  = 15 * time.Second // for the body of a request, and for each frame of an answer
	maxWait      = 24 * time.Second // of a poll that finds nothing
	firstWait    = 20 * time.Second
	shortestWait = time.Second
)

var (
	errGone = errors.New("the server does not know this carrier any more")
	errIdle = errors.New("no request has come for too long")
)

// noStore are the fields that every answer has: nothing between may keep it,
// or hold it back.
func noStore(h http.Header) {
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no")
	h.Set("X-Content-Type-Options", "nosniff")
}
