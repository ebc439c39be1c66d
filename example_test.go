package adit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"adit"
)

// A program that answers visitors itself.
func ExampleListen() {
	ctx := context.Background()
	l, err := adit.Listen(ctx, adit.WithID("shop")) // the environment has ADIT_SERVER and ADIT_TOKEN
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Welcome to %s!", r.URL.Path)
	})}
	go srv.Serve(l)

	fmt.Println(visitPage(l.URL() + "the/shop"))

	// Let visitors finish, and tell the server.
	srv.Shutdown(ctx)
	l.Shutdown(ctx)
	// Output: Welcome to /the/shop!
}

// Several connections to the server, for a network that loses packets: a visitor
// is held up by the losses on one of them alone.
func ExampleWithConnections() {
	l, err := adit.Listen(context.Background(), adit.WithID("photos"), adit.WithConnections(4))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.FileServer(http.Dir("photos")))
}

// A public TCP port. Accept tells who the visitor is.
func ExampleListen_tcp() {
	ctx := context.Background()
	l, err := adit.Listen(ctx,
		adit.WithID("echo"),
		adit.WithTCP(0)) // the server chooses the port
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "hello %s\n", c.RemoteAddr().(*net.TCPAddr).IP)
				io.Copy(c, c)
			}()
		}
	}()

	u, _ := url.Parse(l.URL()) // such as tcp://tunnel.example.com:2222
	visitor, err := net.Dial("tcp", u.Host)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(visitor, "is there an echo?\n")
	r := bufio.NewReader(visitor)
	for range 2 {
		line, _ := r.ReadString('\n')
		fmt.Print(line)
	}
	visitor.Close()
	l.Shutdown(ctx)
	// Output:
	// hello 127.0.0.1
	// is there an echo?
}

// A program that publishes what listens elsewhere.
func ExampleForward() {
	ctx := context.Background()
	blog := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "the blog")
	}))
	defer blog.Close()

	t, err := adit.Forward(ctx, blog.URL, adit.WithID("blog")) // or "3000", "db.internal:5432", "unix:/run/blog.sock"
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()

	fmt.Println(visitPage(t.URL()))
	// Output: the blog
}

// A server says why it does not take a program.
func ExampleRefusedError() {
	_, err := adit.Listen(context.Background(),
		adit.WithID("shop"),
		adit.WithToken("not-the-secret"))
	if refused, ok := errors.AsType[*adit.RefusedError](err); ok {
		fmt.Println(refused.Code)
	}
	// Output: invalid-credential
}

// What happens to the connection, as it happens.
func ExampleWithEvents() {
	ctx := context.Background()
	l, err := adit.Listen(ctx,
		adit.WithID("events"),
		adit.WithEvents(func(e adit.Event) {
			fmt.Println(e.State)
		}))
	if err != nil {
		log.Fatal(err)
	}
	l.Shutdown(ctx)
	// Output:
	// connecting
	// connected
	// closed
}

// visitPage returns what a visitor of a page gets.
func visitPage(url string) string {
	resp, err := http.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	return strings.TrimSpace(string(body))
}
