package wayout

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/Azure/go-ntlmssp"
)

// Ways to log in to an HTTP proxy.
const (
	Negotiate = "Negotiate" // RFC 4559, with a ticket of Kerberos
	NTLM      = "NTLM"      // MS-NLMP, version 2
	Basic     = "Basic"     // RFC 7617
)

// Schemes are the ways to log in that a Dialer knows, strongest first.
var Schemes = []string{Negotiate, NTLM, Basic}

// knownSchemes are those that an error names: others are the proxy's text, and
// may be anything.
var knownSchemes = []string{Negotiate, "Kerberos", NTLM, "Digest", "Bearer", Basic}

// A login is how one connection is asked for, as far as it is about who asks. A
// proxy is shown something when it has asked for that, in the strongest form
// that it takes. A password that it has refused is not shown to it in another
// form, which would be a weaker one.
type login struct {
	proxy     string        // host
	user      *url.Userinfo // nil if there is none
	allowed   []string
	negotiate func(ctx context.Context, host string) ([]byte, error) // nil if there is no ticket

	header   string // Proxy-Authorization of the next request
	bound    bool   // the next request has to use the connection of the last one
	offers   []string
	pending  string // the scheme under which a challenge of NTLM is due
	ticket   bool   // a ticket was shown
	password bool   // a password was, in some form
	eager    bool   // it was without having been asked for, and may be once more in a stronger form
	why      error  // why something that could have been shown was not
}

func (d *Dialer) newLogin(via *url.URL) *login {
	l := &login{proxy: via.Hostname(), user: via.User, allowed: d.Schemes, negotiate: d.Negotiate}
	if l.allowed == nil {
		l.allowed = Schemes
	}
	if d.Eager && l.user != nil && slices.Contains(l.allowed, Basic) {
		l.showBasic()
		l.eager = true
	}
	return l
}

// next prepares for another request after an answer 407 with these values of
// Proxy-Authenticate (RFC 9110, section 11.7.1). The error is an *Error.
func (l *login) next(ctx context.Context, challenges []string) error {
	l.header, l.bound = "", false
	if scheme := l.pending; scheme != "" {
		l.pending = ""
		if challenge := tokenOf(challenges, scheme); challenge != nil {
			return l.answerNTLM(scheme, challenge)
		}
	}
	l.offers = schemesOf(challenges)
	if len(challenges) == 0 { // it may not, but some do, and know no other way
		l.offers = []string{Basic}
	}
	if l.takes(Negotiate) && l.negotiate != nil && !l.ticket {
		token, err := l.negotiate(ctx, l.proxy)
		if err == nil {
			l.ticket = true
			l.show(Negotiate, token)
			return nil
		}
		l.why = err
	}
	if l.user == nil || l.password && !(l.eager && l.takes(NTLM)) {
		return l.fail()
	}
	l.eager = false
	switch {
	case l.takes(NTLM):
		return l.beginNTLM(NTLM)
	case l.takes(Basic):
		l.showBasic()
		return nil
	case l.takes(Negotiate) && slices.Contains(l.allowed, NTLM):
		return l.beginNTLM(Negotiate) // as Windows does without a ticket
	}
	return l.fail()
}

// takes reports whether the proxy takes a way to log in that is allowed.
func (l *login) takes(scheme string) bool {
	return slices.Contains(l.offers, scheme) && slices.Contains(l.allowed, scheme)
}

func (l *login) show(scheme string, token []byte) {
	l.header = scheme + " " + base64.StdEncoding.EncodeToString(token)
}

func (l *login) showBasic() {
	l.password = true
	password, _ := l.user.Password()
	l.show(Basic, []byte(l.user.Username()+":"+password))
}

// beginNTLM asks for a challenge, which is good on the same connection alone.
func (l *login) beginNTLM(scheme string) error {
	message, err := ntlmssp.NewNegotiateMessage("", "")
	if err != nil {
		l.why = err
		return l.fail()
	}
	l.pending, l.password = scheme, true
	l.show(scheme, message)
	return nil
}

func (l *login) answerNTLM(scheme string, challenge []byte) error {
	password, _ := l.user.Password()
	message, err := ntlmssp.NewAuthenticateMessage(challenge, l.user.Username(), password, nil)
	if err != nil {
		l.why = errors.New("its challenge of NTLM is malformed, or not of version 2")
		return l.fail()
	}
	l.bound = true
	l.show(scheme, message)
	return nil
}

func (l *login) fail() error {
	kind := LoginNeeded
	if l.password || l.ticket {
		kind = LoginRefused
	}
	return &Error{Kind: kind, StatusCode: http.StatusProxyAuthRequired, Offers: l.offers, Err: l.why}
}

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

// tokenOf returns what a proxy says with a scheme; nil if that is nothing.
func tokenOf(challenges []string, scheme string) []byte {
	for _, c := range challenges {
		name, text, _ := strings.Cut(strings.TrimSpace(c), " ")
		if !strings.EqualFold(name, scheme) {
			continue
		}
		if token, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err == nil && len(token) > 0 {
			return token
		}
	}
	return nil
}
