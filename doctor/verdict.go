package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"adit/carrier"
)

const (
	slowTrip  = 250 * time.Millisecond // beyond it a shell is no pleasure
	heartbeat = 9 * time.Second        // of a session: what is silent for longer does not matter
)

// blameCarrier says why a carrier does not open.
func (x *examination) blameCarrier(name string, err error) {
	if name != "websocket" {
		x.find("carrier", OK, fmt.Sprintf("The carrier %s does not work: %s.", name, reason(err)), "Another one may.")
		return
	}
	const remedy = "Nobody has to mend that: --carrier auto takes another carrier, or name it with --carrier stream. WebSockets are better, if whoever runs the network, or what is in front of the server, lets them through: nginx needs proxy_http_version 1.1, and Upgrade and Connection set with proxy_set_header."
	se, _ := errors.AsType[*carrier.StatusError](err)
	switch {
	case se != nil && se.StatusCode == http.StatusUpgradeRequired:
		x.find("upgrade-stripped", Warning, "Something on the way takes the Upgrade out of requests, so that WebSockets cannot open.", remedy)
	case se != nil && se.StatusCode == http.StatusTooManyRequests:
		x.find("rate-limited", Warning, "The server has been asked too often from this address.", "Try again in a minute.")
	case se != nil:
		x.find("upgrade-refused", Warning, fmt.Sprintf("Something on the way answers %d to a WebSocket, and lets other requests through.", se.StatusCode), remedy)
	default:
		x.find("upgrade-lost", Warning, fmt.Sprintf("Ordinary requests get through, and WebSockets do not: %s.", reason(err)), remedy)
	}
}

// severities, the worst first.
var severities = []Status{Failed, Warning, OK}

// heavy are the codes of findings that stand before others as severe, since they
// say more about what is on the way.
var heavy = []string{"tls-resigned", "clock", "duplicates", "buffering", "lifetime", "idle"}

func weight(f Finding) int {
	if i := slices.Index(heavy, f.Code); i >= 0 {
		return i
	}
	return len(heavy)
}

// conclude adds what only the whole shows, and sorts the findings.
func (x *examination) conclude() {
	r := x.report
	works := func(c Carrier) bool { return c.Status == OK || c.Status == Warning }
	some := slices.ContainsFunc(r.Carriers, works)
	websocket := slices.ContainsFunc(r.Carriers, func(c Carrier) bool { return c.Name == "websocket" && works(c) })
	if x.buffered {
		severity := Warning
		if websocket {
			severity = OK
		}
		x.find("buffering", severity, "Something on the way holds responses back until they have ended.",
			"A WebSocket is not affected. Where there is none, --carrier poll gets through, and --carrier auto finds that by itself. In nginx in front of the server it is proxy_buffering.")
	}
	x.blameTime()
	if late := slices.ContainsFunc(r.Carriers, func(c Carrier) bool { return c.Status == Skipped }); late {
		x.find("slow", Warning, "The network is so slow that there was no time for all carriers.", "Try --thorough, which takes its time.")
	} else if len(r.Carriers) > 0 && !some {
		for i, f := range r.Findings {
			if f.Severity == Warning {
				r.Findings[i].Severity = Failed
			}
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(slices.Index(severities, a.Severity)-slices.Index(severities, b.Severity), cmp.Compare(weight(a), weight(b)))
	})
	r.Status = OK
	if len(r.Findings) > 0 {
		r.Status = r.Findings[0].Severity
	}
	if r.Findings == nil {
		r.Findings = []Finding{}
	}
}

// blameTime looks at for how long carriers last, and how long they take.
func (x *examination) blameTime() {
	var trip time.Duration
	life, silence := -1.0, -1.0
	for _, c := range x.report.Carriers {
		if d := time.Duration(c.RoundTrip * float64(time.Second)); d > 0 && (trip == 0 || d < trip) {
			trip = d
		}
		if c.LastedCut && (life < 0 || c.Lasted < life) {
			life = c.Lasted
		}
		if c.cutInSilence() && !c.LastedCut && (silence < 0 || c.Silent < silence) {
			silence = c.Silent
		}
	}
	if life >= 0 {
		x.find("lifetime", Warning, fmt.Sprintf("Something on the way ends every connection after %s, in use or not.", seconds(life)),
			"adit's sessions outlive that: streams go on over the next connection, with a short pause each time. --carrier poll does without long connections.")
	}
	if silence >= 0 {
		severity, remedy := OK, "Sessions of adit are never silent for that long: nothing has to be done."
		if silence < heartbeat.Seconds() {
			severity, remedy = Warning, "Idle sessions of adit say something every 9 s, which is too seldom for that: they lose their connection and get another one. --carrier poll does without long connections."
		}
		x.find("idle", severity, fmt.Sprintf("Something on the way ends connections that are silent for %s.", seconds(silence)), remedy)
	}
	if trip > slowTrip {
		where := "The way to the server is long"
		if x.connected < trip/3 {
			where = "Something on the way holds everything back"
		}
		x.find("slow", Warning, fmt.Sprintf("%s: a message takes %s there and back, and a connection %s.", where, short(trip), short(x.connected)),
			"What is interactive will feel slow. A server nearer to here, or a network without that detour, helps; another carrier does not.")
	}
}

func seconds(s float64) string { return short(time.Duration(s * float64(time.Second))) }
