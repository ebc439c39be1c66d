package websocktunnel

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// DefaultTokenService is the address of the token service that the clients of
// webhooktunnel asked. It is gone.
const DefaultTokenService = "https://auth.taskcluster.net/v1/webhooktunnel"

const (
	serviceTimeout = 30 * time.Second
	maxService     = 64 << 10 // bytes of an answer
)

// A TokenService tells a client of webhooktunnel its ID, its token and its
// server. The client shows it credentials, with Hawk.
type TokenService struct {
	URL         string // empty means DefaultTokenService
	ClientID    string
	AccessToken string
	Certificate string // of temporary credentials, or empty

	// Client sends the requests; nil means http.DefaultClient.
	Client *http.Client
}

// Ask asks once. The error is a *StatusError if the service answered with
// something else than 200.
func (s *TokenService) Ask(ctx context.Context) (Config, error) {
	address := s.URL
	if address == "" {
		address = DefaultTokenService
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Config{}, errors.New("address of the token service is malformed: it looks like " + DefaultTokenService)
	}
	ctx, cancel := context.WithTimeout(ctx, serviceTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return Config{}, err
	}
	var nonce [6]byte
	rand.Read(nonce[:])
	r.Header.Set(headerToken, s.authorization(u, time.Now().Unix(), base64.StdEncoding.EncodeToString(nonce[:])))
	client := s.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(r)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the address
		}
		return Config{}, fmt.Errorf("ask the token service at %s: %w", u.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Config{}, &StatusError{resp.StatusCode}
	}
	var answer struct{ TunnelID, Token, ProxyURL string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxService)).Decode(&answer); err != nil {
		return Config{}, errors.New("the token service's answer is not the JSON that is expected")
	}
	if answer.TunnelID == "" || answer.Token == "" || answer.ProxyURL == "" {
		return Config{}, errors.New("the token service's answer lacks tunnelId, token or proxyUrl")
	}
	return Config{ID: answer.TunnelID, Token: answer.Token, Server: answer.ProxyURL, Family: Webhooktunnel}, nil
}

// authorization returns a Hawk header (version 1, SHA-256) for a GET of u
// without a hash of the payload.
func (s *TokenService) authorization(u *url.URL, ts int64, nonce string) string {
	ext := ""
	if s.Certificate != "" {
		b, err := json.Marshal(map[string]json.RawMessage{"certificate": rawOrString(s.Certificate)})
		if err == nil {
			ext = base64.StdEncoding.EncodeToString(b)
		}
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	text := fmt.Sprintf("hawk.1.header\n%d\n%s\nGET\n%s\n%s\n%s\n\n%s\n", ts, nonce, u.RequestURI(), strings.ToLower(u.Hostname()), port, ext)
	mac := hmac.New(sha256.New, []byte(s.AccessToken))
	io.WriteString(mac, text)
	h := fmt.Sprintf(`Hawk id="%s", mac="%s", ts="%d", nonce="%s"`, clean(strings.ReplaceAll(s.ClientID, `"`, "")),
		base64.StdEncoding.EncodeToString(mac.Sum(nil)), ts, nonce)
	if ext != "" {
		h += fmt.Sprintf(`, ext="%s"`, ext)
	}
	return h
}

// rawOrString returns a certificate as the object that it is, if it is one.
func rawOrString(s string) json.RawMessage {
	if json.Valid([]byte(s)) {
		return json.RawMessage(s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return json.RawMessage(`""`)
	}
	return b
}

// TokenUsable reports whether a token says of itself that it is valid now. It
// does not look at its signature.
func TokenUsable(token string, now time.Time) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var claims struct{ Nbf, Exp *float64 }
	if json.Unmarshal(b, &claims) != nil {
		return false
	}
	at := float64(now.UnixNano()) / 1e9
	return (claims.Nbf == nil || *claims.Nbf <= at) && (claims.Exp == nil || at < *claims.Exp)
}
