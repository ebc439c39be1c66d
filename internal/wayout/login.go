package wayout

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// A login is how one connection is asked for, as far as it is about who asks.
// A password is shown to a proxy that has asked for one, and in the strongest
// of the forms that it takes.
type login struct {
	user     *url.Userinfo // nil if there is none
	header   string        // Proxy-Authorization of the next request
	offers   []string
	tried    []string
	inBounds bool // the next request has to use the same connection
}

func newLogin(via *url.URL) *login { return &login{user: via.User} }

// bound reports whether the next request has to use the connection of the last
// one.
func (l *login) bound() bool { return l.inBounds }

// next prepares for another request after an answer 407 with these values of
// Proxy-Authenticate (RFC 9110, section 11.7.1).
func (l *login) next(challenges []string) error {
	l.offers = schemesOf(challenges)
	l.header = ""
	if l.user == nil {
		return l.fail(LoginNeeded)
	}
	if slices.Contains(l.tried, "Basic") || !slices.Contains(l.offers, "Basic") {
		if len(l.tried) > 0 {
			return l.fail(LoginRefused)
		}
		return l.fail(LoginNeeded)
	}
	l.tried = append(l.tried, "Basic")
	password, _ := l.user.Password()
	l.header = "Basic " + base64.StdEncoding.EncodeToString([]byte(l.user.Username()+":"+password))
	return nil
}

func (l *login) fail(kind Kind) error {
	return &Error{Kind: kind, StatusCode: http.StatusProxyAuthRequired, Offers: l.offers}
}

// knownSchemes are the ways to log in that an error names: others are the
// proxy's text, and may be anything.
var knownSchemes = []string{"Negotiate", "NTLM", "Digest", "Basic", "Bearer", "Kerberos"}

// schemesOf returns the ways to log in that a proxy offers, strongest first.
func schemesOf(challenges []string) (schemes []string) {
	for _, known := range knownSchemes {
		if slices.ContainsFunc(challenges, func(c string) bool {
			// Several may stand in one line; a parameter's value that looks
			// like a scheme does no harm.
			for part := range strings.SplitSeq(c, ",") {
				name, _, _ := strings.Cut(strings.TrimSpace(part), " ")
				if strings.EqualFold(name, known) {
					return true
				}
			}
			return false
		}) {
			schemes = append(schemes, known)
		}
	}
	return schemes
}
