package websocktunnel

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// A Family is one of the two names under which the protocol goes: they differ
// in the names of header fields.
type Family struct {
	name       string
	headerID   string // of a registration
	headerURL  string // of its answer
	headerPath string // of requests to upstreams
}

var (
	Websocktunnel = &Family{"websocktunnel", "X-Websocktunnel-Id", "X-Websocktunnel-Client-Url", "X-Websocktunnel-Original-Path"}
	Webhooktunnel = &Family{"webhooktunnel", "X-Webhooktunnel-Id", "X-Webhooktunnel-Client-Url", "X-Webhooktunnel-Original-Path"}
)

// String returns the program's name.
func (f *Family) String() string { return f.name }

// RegistrationHeaders are the header fields, in lower case, that make a request
// for "/" a registration.
func RegistrationHeaders() []string {
	return []string{strings.ToLower(Websocktunnel.headerID), strings.ToLower(Webhooktunnel.headerID)}
}

// familyOf returns the family of a registration and the ID that it asks for;
// nil if r is none.
func familyOf(r *http.Request) (*Family, string) {
	if r.URL.Path != "/" {
		return nil, ""
	}
	for _, f := range []*Family{Websocktunnel, Webhooktunnel} {
		if id := r.Header.Get(f.headerID); id != "" {
			return f, id
		}
	}
	return nil, ""
}

// maxID bounds an ID, in bytes. The originals have no bound.
const maxID = 255

var (
	idPattern     = regexp.MustCompile(`^[a-zA-Z0-9_~.%-]+$`)
	bearerPattern = regexp.MustCompile(`^Bearer ([\w.-]+)$`)
)

// ValidID reports whether an agent of the family may have the ID. Those of
// webhooktunnel could have any, even such as no visitor reaches.
func (f *Family) ValidID(id string) bool {
	if len(id) > maxID {
		return false
	}
	if f == Webhooktunnel {
		return !strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r >= 0x7f })
	}
	return idPattern.MatchString(id)
}

// The header field with which both sides say that they speak the extension of
// package wsmux. Its value is a list of parameters; unknown ones are skipped.
const headerExtension = "Adit-Wsmux"

// An extension is what one side says of itself there.
type extension struct {
	window   int  // bytes that a stream takes in without having given credit
	zeroMask bool // masks with the key 0, or accepts it
	standby  bool // registers only if nobody else is registered
}

// The least and the most that a window may be said to be, in bytes.
const (
	minWindow = 4 << 10
	maxWindow = 16 << 20
)

// parseExtension reads a value of headerExtension. It reports false if the
// other side does not speak the extension, or in a way that is not understood.
func parseExtension(s string) (e extension, ok bool) {
	for p := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch name {
		case "window":
			n, err := strconv.Atoi(value)
			if err != nil || n < minWindow || n > maxWindow {
				return extension{}, false
			}
			e.window = n
		case "mask":
			e.zeroMask = value == "zero"
		case "standby":
			e.standby = true
		}
	}
	return e, e.window > 0
}

func (e extension) String() string {
	s := "window=" + strconv.Itoa(e.window)
	if e.zeroMask {
		s += ", mask=zero"
	}
	if e.standby {
		s += ", standby"
	}
	return s
}
