// Server is a web site with an adit server below one of its paths, for a program
// that has a public address already:
//
//	go run ./examples/server -secret-file secret
//	adit http 3000 --id blog --server ws://localhost:8080/tunnels --secret-file secret
//	curl http://localhost:8080/tunnels/blog/
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/server"
)

func main() {
	listen := flag.String("listen", "localhost:8080", "address of the site")
	secretFile := flag.String("secret-file", "", "file with the secret of agents, which only its owner may read")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *secretFile); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen, secretFile string) error {
	secret, err := auth.LoadSecret(secretFile)
	if err != nil {
		return err
	}
	agents, err := auth.NewAuthenticator(auth.Options{Secrets: []auth.Secret{secret}})
	if err != nil {
		return err
	}
	tunnels, err := server.New(server.Options{
		PublicURL: "http://" + listen + "/tunnels",
		PathMode:  true,
		Dialects:  []dialect.Dialect{native.New(native.Options{})},
		Auth:      agents,
		Logger:    slog.Default(),
	})
	if err != nil {
		return err
	}

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "This is the site.") })
	mux.Handle("/tunnels/", tunnels)
	site := &http.Server{Addr: listen, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- site.ListenAndServe() }()

	// Run ends with ctx, or with the site, when agents have been told.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- tunnels.Run(ctx) }()
	select {
	case err := <-served:
		cancel()
		return errors.Join(err, <-ran)
	case err := <-ran:
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return errors.Join(err, site.Shutdown(grace))
	}
}
