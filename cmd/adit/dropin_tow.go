package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"

	"adit/forward/tcpws"
	"adit/internal/pacing"
	"adit/internal/wayout"
)

const towUsage = `Usage:
  %[1]s server -listen_ws ADDR -connect_tcp ADDR
        take websockets, and connect each to a TCP address
  %[1]s client -listen_tcp ADDR -connect_ws URL
        take TCP connections, and connect each to a websocket
`

// tcpOverWebsocket is the program of that name, in all its published versions.
func (p *program) tcpOverWebsocket(ctx context.Context, args []string) int {
	mode := ""
	if len(args) > 0 {
		mode, args = args[0], args[1:]
	}
	fl := flag.NewFlagSet(mode, flag.ContinueOnError)
	fl.SetOutput(p.errOut)
	logger := log.New(p.errOut, "", log.LstdFlags)
	var listen, connect string
	var serve func(context.Context, net.Listener) error
	switch mode {
	case "server":
		fl.StringVar(&listen, "listen_ws", "", "`address` to take websockets at, such as :8080")
		fl.StringVar(&connect, "connect_tcp", "", "`address` to connect each to, such as localhost:22")
		fl.StringVar(&connect, "remote_tcp", "", "the same as -connect_tcp")
		serve = func(ctx context.Context, l net.Listener) error {
			return tcpws.NewServer(tcpws.ServerOptions{Target: connect, Log: logger, Metrics: tcpws.NewMetrics()}).Serve(ctx, l)
		}
	case "client":
		fl.StringVar(&listen, "listen_tcp", "", "`address` to take TCP connections at, such as localhost:2222")
		fl.StringVar(&connect, "connect_ws", "", "`URL` to connect each to, such as wss://tunnel.example.com/")
		fl.StringVar(&connect, "remote_ws", "", "the same as -connect_ws")
		serve = func(ctx context.Context, l net.Listener) error {
			return tcpws.NewClient(tcpws.ClientOptions{URL: connect, Log: logger, Proxy: wayout.FromEnvironment(p.getenv)}).Serve(ctx, l)
		}
	default:
		fmt.Fprintf(p.errOut, towUsage, "tcp-over-websocket")
		return exitFailed
	}
	switch err := fl.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		return exitUsage
	case listen == "" || connect == "":
		fl.Usage()
		return exitFailed
	}
	if err := listenAndServe(ctx, listen, p.errOut, serve); err != nil {
		logger.Printf("Failed to run: %v", err)
		return exitFailed
	}
	return exitDone
}

func listenAndServe(ctx context.Context, addr string, out io.Writer, serve func(context.Context, net.Listener) error) error {
	lc := net.ListenConfig{Control: pacing.Control}
	lc.SetMultipathTCP(false) // whose sockets cannot be spliced
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	if _, port, _ := net.SplitHostPort(addr); port == "0" {
		addr = l.Addr().String() // else as it was given, like the original
	}
	log.New(out, "", log.LstdFlags).Printf("Listening to %s", addr)
	return serve(ctx, l)
}
