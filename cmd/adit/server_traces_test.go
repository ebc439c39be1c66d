package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestTraces(t *testing.T) {
	t.Parallel()
	posts := make(chan *http.Request, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n, err := io.Copy(io.Discard, r.Body); n == 0 || err != nil {
			t.Errorf("got %d bytes, %v", n, err)
		}
		posts <- r
	}))
	defer collector.Close()
	parents := make(chan string, 10)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { parents <- r.Header.Get("Traceparent") }))
	defer up.Close()

	server := newCommand(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL, "OTEL_EXPORTER_OTLP_HEADERS=x-key=hush%2Chush")
	server.start(t, "server", "--listen", "127.0.0.1:0", "--secret-file", writeFile(t, testSecret), "--trace-ratio", "1")
	url := "ws://" + server.err.wait(t, `"server started","listen":"([^"]*)"`)
	web := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", up.Listener.Addr().String(), "--id", "web", "--server", url)
	get(t, web.out.wait(t, `^(http://\S+/web/) +-> `))
	if p := <-parents; len(p) != 55 {
		t.Errorf("the upstream got traceparent %q", p)
	}
	server.stop()
	select {
	case r := <-posts:
		if r.URL.Path != "/v1/traces" || r.Header.Get("X-Key") != "hush,hush" {
			t.Errorf("the collector got %s with key %q", r.URL, r.Header.Get("X-Key"))
		}
	default:
		t.Error("the collector got nothing")
	}
	if text := server.err.String() + server.out.String(); strings.Contains(text, "hush") {
		t.Errorf("the collector's key shows in %q", text)
	}
}

func TestTraceSettings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		environ  []string
		args     []string
		endpoint string
		wrong    string // in the error; empty if there is none
	}{
		{"nothing", nil, nil, "", ""},
		{"flag", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://other"}, []string{"--otlp-endpoint", "http://c:4318"}, "http://c:4318", ""},
		{"environment", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318"}, nil, "http://c:4318", ""},
		{"for traces alone", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://other", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c/x/v1/traces"}, nil, "http://c/x", ""},
		{"disabled", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c", "OTEL_SDK_DISABLED=true"}, nil, "", ""},
		{"no URL", nil, []string{"--otlp-endpoint", "c:4318"}, "", "--otlp-endpoint: want http://"},
		{"no URL in the environment", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=c"}, nil, "", "OTEL_EXPORTER_OTLP_ENDPOINT: want http://"},
		{"another protocol", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, nil, "", "http/protobuf"},
		{"malformed headers", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c", "OTEL_EXPORTER_OTLP_HEADERS=hush"}, nil, "", "OTEL_EXPORTER_OTLP_HEADERS is malformed"},
		{"headers with a line's end", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c", "OTEL_EXPORTER_OTLP_HEADERS=a=hush%0d%0ab"}, nil, "", "malformed"},
		{"certificate of a client", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=/x"}, nil, "", "shows no certificate"},
		{"ratio", nil, []string{"--trace-ratio", "2"}, "", "0 to 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var f traceFlags
			fl := pflag.NewFlagSet("", pflag.ContinueOnError)
			f.add(fl, &program{environ: tt.environ})
			if err := fl.Parse(tt.args); err != nil {
				t.Fatal(err)
			}
			o, err := f.options()
			switch {
			case tt.wrong == "" && (err != nil || o.Endpoint != tt.endpoint):
				t.Errorf("got %q, %v, want %q", o.Endpoint, err, tt.endpoint)
			case tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), tt.wrong) || strings.Contains(err.Error(), "hush")):
				t.Errorf("got %v, want something with %q", err, tt.wrong)
			}
		})
	}
}

func FuzzParseHeaders(f *testing.F) {
	f.Add("a=b,c=d%20e")
	f.Add("=,,a")
	f.Fuzz(func(t *testing.T, list string) {
		h, ok := parseHeaders(list)
		if !ok {
			return
		}
		for name, values := range h {
			for _, v := range append(values, name) {
				if strings.ContainsAny(v, "\r\n") {
					t.Errorf("%q became %q", list, h)
				}
			}
		}
	})
}
