package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"adit/dialect/websocktunnel"
	"adit/internal/backoff"
)

const whclientUsage = `Usage: whclient <clientID> <accessToken> <targetPort> [--cert=<cert>] [--out-file=<outFile>] [--json]

The client of Taskcluster's webhooktunnel, as adit runs it. It asks a token
service, with the credentials in the first two words, for an id, a token and a
server, registers there, and connects each stream to targetPort of this machine.

Options:
  -h --help              show this text
     --version           show the version that this stands for
     --cert=<cert>       certificate of temporary credentials
     --out-file=<file>   write the public address there
     --json              log JSON

Options of adit, which the environment may have too, such as ADIT_TOKEN_SERVICE:
     --token-service=<url>  the token service
                            (` + websocktunnel.DefaultTokenService + `)
     --tunnel-token=<token> a token that is there already: no service is asked
     --tunnel-id=<id>       the id that it is for
     --tunnel-server=<url>  the server that it is for
     --verbose              log more
`

// whclientFlags are the options of whclient.
type whclientFlags struct {
	clientFlags
	cert, service     string
	token, id, server string
}

// whclient stands in for whclient.
func (p *program) whclient(ctx context.Context, args []string) int {
	f := whclientFlags{clientFlags: clientFlags{p: p}}
	o := newOptionParser("whclient")
	f.add(o)
	o.BoolVar(&f.verbose, "verbose", false, "")
	o.StringVar(&f.cert, "cert", "", "")
	o.StringVar(&f.service, "token-service", "", "")
	o.StringVar(&f.token, "tunnel-token", "", "")
	o.StringVar(&f.id, "tunnel-id", "", "")
	o.StringVar(&f.server, "tunnel-server", "", "")
	o.original("help", "version", "out-file", "json", "cert")
	err := o.parse(args)
	if err == nil {
		err = o.fromEnvironment(p)
	}
	given := f.token != "" || f.id != "" || f.server != ""
	switch {
	case err == nil && f.help:
		fmt.Fprint(p.out, whclientUsage)
		return exitDone
	case err == nil && f.version:
		fmt.Fprintln(p.out, "Webhook Client 0.1")
		return exitDone
	case err != nil || o.NArg() != 3 || given && (f.token == "" || f.id == "" || f.server == ""):
		fmt.Fprint(p.errOut, whclientUsage) // without err, which may show a credential
		return exitFailed
	}
	log := f.logger()
	port, err := strconv.ParseUint(o.Arg(2), 10, 16)
	if err != nil {
		fatal(log, whclientUsage, "targetPort", o.Arg(2))
		return exitFailed
	}
	source := serviceSource{log: log, service: &websocktunnel.TokenService{
		URL: f.service, ClientID: o.Arg(0), AccessToken: o.Arg(1), Certificate: f.cert,
	}}
	configure := source.configure
	if given {
		ready := websocktunnel.Config{ID: f.id, Token: f.token, Server: f.server, Family: websocktunnel.Webhooktunnel}
		configure = func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) { return ready, nil }
	}
	return f.run(ctx, log, "connected to proxy", uint16(port), configure)
}

// A serviceSource has what a token service tells.
type serviceSource struct {
	service *websocktunnel.TokenService
	log     *slog.Logger
}

// configure asks the service at first, and again when the token in use is of no
// more use.
func (s *serviceSource) configure(ctx context.Context, ask websocktunnel.Ask) (websocktunnel.Config, error) {
	if ask.Last != nil && !ask.Refused && websocktunnel.TokenUsable(ask.Last.Token, time.Now()) {
		return *ask.Last, nil
	}
	wait := backoff.Backoff{Min: 500 * time.Millisecond, Max: 30 * time.Second}
	for {
		c, err := s.service.Ask(ctx)
		if err == nil {
			return c, nil
		}
		if se, ok := errors.AsType[*websocktunnel.StatusError](err); ok && se.Code/100 == 4 {
			return c, fmt.Errorf("token service: %w", err)
		}
		s.log.Warn("no answer from the token service", "err", err)
		if err := wait.Wait(ctx); err != nil {
			return c, err
		}
	}
}
