package wayout

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/url"
	"testing"
)

// A scripted conn gives what the other end would send, and loses what is sent
// there.
type scripted struct{ io.Reader }

func (scripted) Write(p []byte) (int, error) { return len(p), nil }

// FuzzSOCKS has a proxy answer anything to the handshake.
func FuzzSOCKS(f *testing.F) {
	f.Add([]byte{5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{5, 2, 1, 0, 5, 0, 0, 3, 1, 'x', 0, 0})
	f.Add([]byte{5, 2, 1, 1})
	f.Add([]byte{5, 0xff})
	f.Fuzz(func(t *testing.T, answers []byte) {
		r := bytes.NewReader(append(answers, "rest"...))
		err := askSOCKS(scripted{r}, url.UserPassword("me", "secret"), "tunnel.example.com:443")
		if err != nil && err.Error() == "" {
			t.Error("an error without text")
		}
	})
}

// FuzzLogin has a proxy ask for anything.
func FuzzLogin(f *testing.F) {
	f.Add("NTLM", "NTLM "+base64.StdEncoding.EncodeToString([]byte("NTLMSSP\x00\x02\x00\x00\x00")))
	f.Add(`Basic realm="x", Negotiate`, "Negotiate")
	f.Fuzz(func(t *testing.T, first, second string) {
		l := (&Dialer{}).newLogin(&url.URL{Host: "proxy", User: url.UserPassword("me", "marked")})
		for _, challenge := range []string{first, second, second} {
			err := l.next(t.Context(), []string{challenge})
			if err == nil {
				continue
			}
			if _, ok := errors.AsType[*Error](err); !ok || bytes.Contains([]byte(err.Error()), []byte("marked")) {
				t.Errorf("got %v", err)
			}
			return
		}
	})
}
