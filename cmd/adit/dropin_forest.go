package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"

	"adit/dialect/forest"
	"adit/internal/wayout"
)

// maxForestConfig bounds the configuration file, in bytes.
const maxForestConfig = 16 << 20

// forest is forest/tunnel, with its flags, files and exit codes.
func (p *program) forest(ctx context.Context, args []string) int {
	fl := flag.NewFlagSet("forest", flag.ContinueOnError)
	fl.SetOutput(p.errOut)
	mode := fl.String("mode", "", "server or client")
	file := fl.String("configFile", "config.json", "`path` of the JSON file")
	switch err := fl.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		return exitUsage
	}
	logger := log.New(p.errOut, "", log.LstdFlags)
	var run func(context.Context, []byte, *log.Logger) error
	switch *mode {
	case "server":
		run = func(ctx context.Context, b []byte, logger *log.Logger) error {
			return p.forestServer(ctx, b, *file, logger)
		}
	case "client":
		run = p.forestAgent
	default:
		fmt.Fprintf(p.out, "-mode: got %q, want server or client\n", *mode)
		return exitFailed
	}
	b, err := readForestConfig(*file)
	if err == nil {
		err = run(ctx, b, logger)
	}
	if err != nil {
		logger.Print("error: ", err)
		return exitFailed
	}
	return exitDone
}

func readForestConfig(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("-configFile: %w", err)
	}
	if info.Size() > maxForestConfig {
		return nil, fmt.Errorf("-configFile: %s has %d bytes, at most %d are allowed", name, info.Size(), maxForestConfig)
	}
	return os.ReadFile(name)
}

func (p *program) forestServer(ctx context.Context, b []byte, file string, logger *log.Logger) error {
	c, unknown, err := forest.ParseServerConfig(b)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	sayConfig(logger, c, unknown)
	s, err := newForestServer(c, file, logger)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// newForestServer makes the server of a configuration that is in file.
func newForestServer(c forest.ServerConfig, file string, logger *log.Logger) (*forest.Server, error) {
	opts := forest.ServerOptions{Log: logger, StateFile: c.StateFile}
	switch c.StateFile {
	case "":
		opts.StateFile, opts.StateOptional = file+".tunnels", true
	case "off":
		opts.StateFile = ""
	}
	return forest.NewServer(c, opts)
}

func (p *program) forestAgent(ctx context.Context, b []byte, logger *log.Logger) error {
	c, unknown, err := forest.ParseAgentConfig(b)
	if err != nil {
		return err
	}
	sayConfig(logger, c, unknown)
	opts := forest.AgentOptions{Log: logger, Output: p.out}
	if opts.Out, err = p.forestWayOut(); err != nil {
		return err
	}
	a, err := forest.NewAgent(c, opts)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// forestWayOut returns a proxy that variables of adit's own name. Those of all
// programs do not count, since the original does not know them; nil is straight.
func (p *program) forestWayOut() (*wayout.Dialer, error) {
	f := wayOutFlags{
		proxy:        p.getenv(envName("proxy")),
		passwordFile: p.getenv(envName("proxy-password-file")),
		schemes:      defaultSchemes,
	}
	if f.proxy == "" && f.passwordFile == "" {
		return nil, nil
	}
	return f.dialer(p)
}

// sayConfig says what a file was understood as. There are no secrets in it.
func sayConfig(logger *log.Logger, c any, unknown []string) {
	b, _ := json.MarshalIndent(c, "", "  ") // plain values
	logger.Printf("using config:\n%s", b)
	for _, key := range unknown {
		logger.Printf("warning: the configuration has the unknown key %q", key)
	}
}
