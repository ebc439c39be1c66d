// Hello answers visitors of an adit server and listens on no port itself. It
// takes the server and the credential from the environment:
//
//	ADIT_SERVER=ws://localhost:8080 ADIT_TOKEN=adit_… go run ./examples/hello
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"adit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	l, err := adit.Listen(ctx, adit.WithID("hello"), adit.WithLogger(slog.Default()))
	if err != nil {
		return err
	}
	fmt.Println(l.URL())

	srv := &http.Server{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served: // the listener has ended by itself
		return err
	case <-ctx.Done():
	}

	// Let visitors finish who are there. The first call closes the listener,
	// so that the server sends nobody else; the second waits until it knows.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(srv.Shutdown(ctx), l.Shutdown(ctx))
}

func hello(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "Hello, you asked for %s\n", r.URL.Path)
}
