package wayout

import (
	"fmt"
	"net/url"

	"golang.org/x/net/http/httpproxy"
)

// FromEnvironment returns a Dialer's Proxy that goes by HTTP_PROXY for servers
// without TLS, HTTPS_PROXY for those with it, NO_PROXY, and their lower-case
// forms, as Go programs do: a malformed URL is no proxy, and where REQUEST_METHOD
// is set HTTP_PROXY is an error, since a visitor may have said it. Servers on this
// machine have none.
func FromEnvironment(getenv func(string) string) func(*url.URL) (*url.URL, error) {
	config := httpproxy.Config{
		HTTPProxy:  firstOf(getenv, "HTTP_PROXY", "http_proxy"),
		HTTPSProxy: firstOf(getenv, "HTTPS_PROXY", "https_proxy"),
		NoProxy:    firstOf(getenv, "NO_PROXY", "no_proxy"),
		CGI:        getenv("REQUEST_METHOD") != "",
	}
	judge := config.ProxyFunc()
	return func(server *url.URL) (*url.URL, error) { return judge(asHTTP(server)) }
}

// Environment is like FromEnvironment, in the order of curl: a variable in lower
// case goes before the same in upper case, and ALL_PROXY stands for what neither
// HTTP_PROXY nor HTTPS_PROXY says. HTTP_PROXY in upper case does not count
// where REQUEST_METHOD is set: for a CGI program it is what a visitor says. A
// malformed URL is an error.
func Environment(getenv func(string) string) func(*url.URL) (*url.URL, error) {
	plain := []string{"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"}
	if getenv("REQUEST_METHOD") != "" {
		plain = []string{"http_proxy", "all_proxy", "ALL_PROXY"}
	}
	chosen := map[string]string{
		"http":  firstOf(getenv, plain...),
		"https": firstOf(getenv, "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
	}
	const some = "http://x" // of this only whether there is one counts
	judge := (&httpproxy.Config{HTTPProxy: some, HTTPSProxy: some, NoProxy: firstOf(getenv, "no_proxy", "NO_PROXY")}).ProxyFunc()
	return func(server *url.URL) (*url.URL, error) {
		u := asHTTP(server)
		text := chosen[u.Scheme]
		if text == "" {
			return nil, nil
		}
		if via, err := judge(u); via == nil || err != nil {
			return nil, err
		}
		via, err := ParseProxy(text)
		if err != nil {
			return nil, fmt.Errorf("the proxy's URL in the environment: %w", err)
		}
		return via, nil
	}
}

// asHTTP returns the URL with http or https instead of ws or wss.
func asHTTP(server *url.URL) *url.URL {
	u := *server
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	}
	return &u
}

// firstOf returns the first of the variables that is not empty.
func firstOf(getenv func(string) string, names ...string) string {
	for _, name := range names {
		if v := getenv(name); v != "" {
			return v
		}
	}
	return ""
}
