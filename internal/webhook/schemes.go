package webhook

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"slices"
	"strings"

	"adit/internal/http1"
)

// Schemes are the names of those without parameters.
var Schemes = []string{"github", "stripe", "slack", "svix", "standard", "shopify"}

func parseScheme(s string) (scheme, error) {
	switch name, params, _ := strings.Cut(s, ":"); {
	case name == "hmac":
		return parseHMAC(params)
	case params != "" || strings.HasSuffix(s, ":"):
	case s == "github": // docs.github.com: Validating webhook deliveries
		return plainHMAC("X-Hub-Signature-256", "sha256=", sha256.New, hex.DecodeString), nil
	case s == "shopify":
		return plainHMAC("X-Shopify-Hmac-Sha256", "", sha256.New, base64.StdEncoding.DecodeString), nil
	case s == "stripe":
		return scheme{find: findStripe, hash: sha256.New}, nil
	case s == "slack":
		return scheme{find: findSlack, hash: sha256.New}, nil
	case s == "svix", s == "standard":
		return scheme{find: findSvix, hash: sha256.New, key: whsec}, nil
	}
	return scheme{}, fmt.Errorf("webhook scheme %.60q: want one of %s, or hmac:header=X-Signature", s, strings.Join(Schemes, ", "))
}

// parseHMAC parses the parameters of the scheme hmac.
func parseHMAC(params string) (scheme, error) {
	header, prefix := "X-Signature", ""
	sum, decode := sha256.New, hex.DecodeString
	if params != "" {
		for param := range strings.SplitSeq(params, ",") {
			name, value, _ := strings.Cut(param, "=")
			switch {
			case name == "header" && http1.IsToken(value) && http1.KindOf([]byte(value)) == http1.Other:
				header = value
			case name == "prefix" && value != "":
				prefix = value
			case param == "hash=sha256":
			case param == "hash=sha1":
				sum = sha1.New
			case param == "hash=sha512":
				sum = sha512.New
			case param == "encoding=hex":
			case param == "encoding=base64":
				decode = base64.StdEncoding.DecodeString
			default:
				return scheme{}, fmt.Errorf("webhook scheme hmac: %.60q: want header=NAME, prefix=TEXT, hash=sha256, sha1 or sha512, or encoding=hex or base64", param)
			}
		}
	}
	return plainHMAC(header, prefix, sum, decode), nil
}

// plainHMAC is the HMAC of the body in one field.
func plainHMAC(header, prefix string, sum func() hash.Hash, decode func(string) ([]byte, error)) scheme {
	return scheme{hash: sum, find: func(h http.Header) (claim, error) {
		value, err := one(h, header)
		if err != nil {
			return claim{}, err
		}
		text, ok := strings.CutPrefix(value, prefix)
		signature, derr := decode(text)
		if !ok || derr != nil {
			return claim{}, &Error{Invalid, header + " is malformed"}
		}
		return claim{signatures: [][]byte{signature}}, nil
	}}
}

// findStripe reads "t=TIME,v1=HEX,v1=HEX,v0=…" (docs.stripe.com: Verify webhook
// signatures manually).
func findStripe(h http.Header) (claim, error) {
	const name = "Stripe-Signature"
	value, err := one(h, name)
	if err != nil {
		return claim{}, err
	}
	var c claim
	at := ""
	for part := range strings.SplitSeq(value, ",") {
		key, text, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch key {
		case "t":
			if at != "" {
				return claim{}, &Error{Invalid, name + " has two times"}
			}
			at = text
		case "v1":
			if s, err := hex.DecodeString(text); err == nil && len(c.signatures) < maxSignatures {
				c.signatures = append(c.signatures, s)
			}
		}
	}
	if at == "" || c.signatures == nil {
		return claim{}, &Error{Missing, name + " lacks t or v1"}
	}
	c.prefix = at + "."
	c.at, err = unixTime(at)
	return c, err
}

// findSlack reads "v0=HEX" (api.slack.com: Verifying requests from Slack).
func findSlack(h http.Header) (claim, error) {
	const name = "X-Slack-Signature"
	value, err := one(h, name)
	if err != nil {
		return claim{}, err
	}
	at, err := one(h, "X-Slack-Request-Timestamp")
	if err != nil {
		return claim{}, err
	}
	text, ok := strings.CutPrefix(value, "v0=")
	signature, derr := hex.DecodeString(text)
	if !ok || derr != nil {
		return claim{}, &Error{Invalid, name + " is malformed"}
	}
	c := claim{signatures: [][]byte{signature}, prefix: "v0:" + at + ":"}
	c.at, err = unixTime(at)
	return c, err
}

// findSvix reads "v1,BASE64 v1,BASE64" beside an ID and a time (docs.svix.com:
// Verifying webhooks manually; standardwebhooks.com). Of the two families of
// names only one may be there.
func findSvix(h http.Header) (claim, error) {
	family := "Svix-"
	if others := h.Values("Webhook-Signature"); len(others) > 0 {
		if len(h.Values("Svix-Signature")) > 0 {
			return claim{}, &Error{Invalid, "there are both Svix-Signature and Webhook-Signature"}
		}
		family = "Webhook-"
	}
	value, err := one(h, family+"Signature")
	if err != nil {
		return claim{}, err
	}
	id, err := one(h, family+"Id")
	if err != nil {
		return claim{}, err
	}
	at, err := one(h, family+"Timestamp")
	if err != nil {
		return claim{}, err
	}
	if strings.ContainsRune(id, '.') { // it would move the border between ID and time
		return claim{}, &Error{Invalid, family + "Id has a dot"}
	}
	var c claim
	for part := range strings.FieldsSeq(value) {
		version, text, _ := strings.Cut(part, ",")
		if s, err := base64.StdEncoding.DecodeString(text); version == "v1" && err == nil && len(c.signatures) < maxSignatures {
			c.signatures = append(c.signatures, s)
		}
	}
	if c.signatures == nil {
		return claim{}, &Error{Missing, family + "Signature has no v1"}
	}
	c.signatures = slices.Clip(c.signatures)
	c.prefix = id + "." + at + "."
	c.at, err = unixTime(at)
	return c, err
}
