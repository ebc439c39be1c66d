package websocktunnel_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"time"

	"adit/dialect/websocktunnel"
)

// A program that serves HTTP to the visitors of one ID, and makes a token each
// time that it registers.
func ExampleListen() {
	newToken := func() string { return "a JWT for demo" }
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := websocktunnel.Listen(ctx, websocktunnel.ListenOptions{
		Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
			return websocktunnel.Config{ID: "demo", Server: "https://tunnel.example.com", Token: newToken()}, nil
		},
		OnConnect: func(url string) { log.Print("visitors find this at ", url) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	fmt.Println(http.Serve(l, handler)) // survives the loss of sessions
}
