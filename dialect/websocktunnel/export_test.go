package websocktunnel

import "net/url"

func (s *TokenService) Authorization(u *url.URL, ts int64, nonce string) string {
	return s.authorization(u, ts, nonce)
}
