package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/pflag"

	"adit/tracing"
)

// Variables that OpenTelemetry's own SDKs know. Of each there is one for traces
// alone, with TRACES_ before the last part, which goes first.
const (
	otelPrefix   = "OTEL_EXPORTER_OTLP_"
	otelEndpoint = "ENDPOINT"
	otelHeaders  = "HEADERS"     // name=value,name=value
	otelCA       = "CERTIFICATE" // file
	otelProtocol = "PROTOCOL"
	otelCert     = "CLIENT_CERTIFICATE"
	otelDisabled = "OTEL_SDK_DISABLED"
)

// traceFlags are the flags about traces.
type traceFlags struct {
	p        *program
	endpoint string
	ratio    float64
}

func (f *traceFlags) add(fl *pflag.FlagSet, p *program) {
	f.p = p
	fl.StringVar(&f.endpoint, "otlp-endpoint", "", "URL of an OpenTelemetry collector that gets traces of requests, such as http://127.0.0.1:4318 (default "+otelPrefix+otelEndpoint+"; without either, none)")
	fl.Float64Var(&f.ratio, "trace-ratio", 0.1, "share of requests that are traced, 0 to 1")
}

// otel returns the value of one of OpenTelemetry's variables, and its name.
func (f *traceFlags) otel(last string) (value, name string) {
	name = otelPrefix + "TRACES_" + last
	if value = f.p.getenv(name); value != "" {
		return value, name
	}
	name = otelPrefix + last
	return f.p.getenv(name), name
}

// options returns the options of a tracer, without endpoint if there is to be
// none. It opens no file.
func (f *traceFlags) options() (o tracing.Options, err error) {
	if !(f.ratio >= 0 && f.ratio <= 1) {
		return o, usagef("--trace-ratio %v: 0 to 1 are allowed", f.ratio)
	}
	at, name := f.endpoint, "--otlp-endpoint"
	if at == "" {
		if strings.EqualFold(f.p.getenv(otelDisabled), "true") {
			return o, nil
		}
		if at, name = f.otel(otelEndpoint); strings.Contains(name, "TRACES") {
			at = strings.TrimSuffix(strings.TrimSuffix(at, "/"), "/v1/traces") // it is whole there
		}
	}
	if at == "" {
		return o, nil
	}
	if err := tracing.CheckEndpoint(at); err != nil {
		return o, usagef("%s: %v", name, err)
	}
	if v, name := f.otel(otelProtocol); v != "" && v != "http/protobuf" {
		return o, usagef("the environment's %s is %q: adit speaks http/protobuf", name, v)
	}
	if v, name := f.otel(otelCert); v != "" {
		return o, usagef("the environment has %s: adit shows no certificate to collectors", name)
	}
	list, name := f.otel(otelHeaders)
	header, ok := parseHeaders(list)
	if !ok {
		return o, usagef("the environment's %s is malformed: want name=value,name=value", name) // the values are secret
	}
	return tracing.Options{Endpoint: at, Header: header, Ratio: f.ratio, Version: versionString()}, nil
}

// parseHeaders parses header fields as in W3C Baggage, without properties.
func parseHeaders(list string) (h http.Header, ok bool) {
	h = make(http.Header)
	for pair := range strings.SplitSeq(list, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil || name == "" || strings.ContainsAny(name, " \r\n:") || strings.ContainsAny(value, "\r\n") {
			return nil, false
		}
		h.Add(name, value)
	}
	return h, true
}

// open returns a tracer, or nil if there is to be none.
func (f *traceFlags) open(log *slog.Logger) (*tracing.Tracer, error) {
	o, err := f.options()
	if err != nil || o.Endpoint == "" {
		return nil, err
	}
	if file, name := f.otel(otelCA); file != "" {
		if o.TLS, err = tlsConfig(file); err != nil {
			return nil, fmt.Errorf("the environment's %s: %w", name, err)
		}
	}
	o.OnError = func(err error) { log.Warn("traces not sent", "err", err) }
	log.Info("requests are traced", "collector", o.Endpoint, "ratio", o.Ratio)
	return tracing.New(context.Background(), o)
}
