package websocktunnel_test

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"adit/dialect/websocktunnel"
)

// The newest configuration is used for each connection, and a refused token is
// replaced if there is another.
func TestNewestToken(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	opts := fs.options()
	var asked []string
	tokens := []string{"wrong", "first", "second", "wrong", "third"}
	opts.Configure = func(_ context.Context, ask websocktunnel.Ask) (websocktunnel.Config, error) {
		last := ""
		if ask.Last != nil {
			last = ask.Last.Token
		}
		asked = append(asked, fmt.Sprintf("%s refused %v", last, ask.Refused))
		token := tokens[0]
		tokens = tokens[1:]
		return websocktunnel.Config{ID: "demo", Server: fs.URL, Token: token}, nil
	}
	l := listen(t, opts)
	for range 2 {
		fs.next(t).Close()
	}
	fs.next(t)
	l.Close()
	want := "[ refused false wrong refused true first refused false second refused false wrong refused true]"
	if fmt.Sprint(asked) != want {
		t.Errorf("asked %v, want %s", asked, want)
	}
}

// What a client of webhooktunnel asked its token service, and what it read.
func TestTokenService(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/webhooktunnel/token-service.json")
	if err != nil {
		t.Fatal(err)
	}
	var vector struct {
		Request  string
		Token    string `json:"access_token_used"`
		Response string `json:"response_body"`
	}
	if err := json.Unmarshal(text, &vector); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(vector.Request)))
	if err != nil {
		t.Fatal(err)
	}
	s := &websocktunnel.TokenService{ClientID: "test-client", AccessToken: vector.Token}
	u, err := url.Parse(websocktunnel.DefaultTokenService)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.Authorization(u, 1795205130, "AK2j3DdA"), r.Header.Get("Authorization"); got != want || r.URL.Path != u.Path {
		t.Errorf("Authorization:\n got %s\nwant %s", got, want)
	}

	var status atomic.Int32
	status.Store(200)
	seen := make(chan *http.Request, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.WriteHeader(int(status.Load()))
		io.WriteString(w, vector.Response)
	}))
	defer srv.Close()
	s.URL, s.Client, s.Certificate = srv.URL+"/v1/x?y=z", srv.Client(), `{"version":1}`
	c, err := s.Ask(t.Context())
	if err != nil || c.ID != "demo" || c.Server != "https://127.0.0.1:7181" || !strings.HasPrefix(c.Token, "eyJ") || c.Family != websocktunnel.Webhooktunnel {
		t.Errorf("got %+v, %v", c, err)
	}
	header := (<-seen).Header.Get("Authorization")
	var fields [5]string
	if _, err := fmt.Sscanf(strings.NewReplacer(`"`, " ", ",", " ").Replace(header), "Hawk id= %s mac= %s ts= %s nonce= %s ext= %s", &fields[0], &fields[1], &fields[2], &fields[3], &fields[4]); err != nil {
		t.Fatalf("header %s: %v", header, err)
	}
	su, _ := url.Parse(srv.URL)
	mac := hmac.New(sha256.New, []byte(vector.Token))
	fmt.Fprintf(mac, "hawk.1.header\n%s\n%s\nGET\n/v1/x?y=z\n127.0.0.1\n%s\n\n%s\n", fields[2], fields[3], su.Port(), fields[4])
	if want := base64.StdEncoding.EncodeToString(mac.Sum(nil)); fields[1] != want {
		t.Errorf("mac %s, want %s", fields[1], want)
	}
	if ext, _ := base64.StdEncoding.DecodeString(fields[4]); string(ext) != `{"certificate":{"version":1}}` {
		t.Errorf("ext is %s", ext)
	}
	status.Store(403)
	if _, err := s.Ask(t.Context()); err == nil || strings.Contains(err.Error(), vector.Token) {
		t.Errorf("403: got %v", err)
	} else if se, ok := errors.AsType[*websocktunnel.StatusError](err); !ok || se.Code != 403 {
		t.Errorf("403: got %v", err)
	}
}

func TestTokenUsable(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	for claims, want := range map[string]bool{
		`{"nbf":900,"exp":1100}`: true, `{"nbf":900,"exp":1000}`: false, `{"nbf":1001,"exp":1100}`: false,
		`{"exp":1100.5}`: true, `{}`: true, `[]`: false, `{"exp":"1100"}`: false,
	} {
		token := "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s"
		if got := websocktunnel.TokenUsable(token, now); got != want {
			t.Errorf("%s: got %v, want %v", claims, got, want)
		}
	}
	for _, token := range []string{"", "x", "a.b", "a.b.c.d", "a.%.c"} {
		if websocktunnel.TokenUsable(token, now) {
			t.Errorf("%q: got true", token)
		}
	}
}
