package main

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"adit/agent"
	"adit/auth"
)

// envWebhookSecret holds secrets of webhooks, one in each line. It has no flag,
// because the arguments of a process are for everybody to see.
const envWebhookSecret = envPrefix + "WEBHOOK_SECRET"

// requestFlags are what the agent itself does with the requests of a tunnel.
type requestFlags struct {
	p *program

	setRequest, setResponse       []string
	requestFile, responseFile     string
	removeRequest, removeResponse []string
	hostHeader                    string
	verifyWebhook                 string
	webhookSecretFile             string
	webhookTolerance              time.Duration
}

func (f *requestFlags) add(fl *pflag.FlagSet) {
	fl.StringArrayVar(&f.setRequest, "request-header", nil, "header field that the upstream gets, such as 'X-Env: dev'; may be given several times")
	fl.StringVar(&f.requestFile, "request-header-file", "", "file with such header fields, one in each line; for those that nobody else should read")
	fl.StringSliceVar(&f.removeRequest, "remove-request-header", nil, "names of header fields that the upstream does not get")
	fl.StringArrayVar(&f.setResponse, "response-header", nil, "header field that visitors get, such as 'X-Frame-Options: DENY'; may be given several times")
	fl.StringVar(&f.responseFile, "response-header-file", "", "file with such header fields, one in each line")
	fl.StringSliceVar(&f.removeResponse, "remove-response-header", nil, "names of header fields that visitors do not get")
	fl.StringVar(&f.hostHeader, "host-header", "", "Host that the upstream gets: rewrite for its own address, or a host (default that of the visitor)")
	fl.StringVar(&f.verifyWebhook, "verify-webhook", "", "only requests that are signed may enter: github, stripe, slack, svix, standard, shopify, or hmac:header=X-Signature")
	fl.StringVar(&f.webhookSecretFile, "webhook-secret-file", "", "file with the secret of webhooks, or several, one in each line; without it "+envWebhookSecret)
	fl.DurationVar(&f.webhookTolerance, "webhook-tolerance", 5*time.Minute, "how far the time in a signature may be from this machine's")
}

// upstream returns up with the rules of the flags, and whether there are any.
func (f *requestFlags) upstream(up *agent.Upstream, log *slog.Logger) (_ *agent.Upstream, rules bool, err error) {
	r := agent.Rules{RemoveRequest: f.removeRequest, RemoveResponse: f.removeResponse, Host: f.hostHeader}
	if r.SetRequest, err = headerFields("request-header-file", f.requestFile, f.setRequest); err != nil {
		return nil, false, err
	}
	if r.SetResponse, err = headerFields("response-header-file", f.responseFile, f.setResponse); err != nil {
		return nil, false, err
	}
	if r.Webhook, err = f.webhook(); err != nil {
		return nil, false, err
	}
	if r.IsZero() {
		return up, false, nil
	}
	with, err := up.With(r, log)
	if re, ok := errors.AsType[*agent.RuleError](err); ok {
		flag := ruleFlagOf[re.Field]
		if wrong := webhookSecretOf.MatchString(re.Err.Error()); wrong && f.webhookSecretFile != "" {
			flag = "webhook-secret-file"
		}
		return nil, false, usagef("--%s: %v", flag, re.Err)
	} else if err != nil {
		return nil, false, usagef("%v", err)
	}
	return with, true, nil
}

// ruleFlagOf are the flags of the fields of agent.Rules.
var ruleFlagOf = map[string]string{
	"SetRequest": "request-header", "RemoveRequest": "remove-request-header",
	"SetResponse": "response-header", "RemoveResponse": "remove-response-header",
	"Host": "host-header", "Webhook": "verify-webhook",
}

// webhookSecretOf matches what is wrong with a secret, and not with the scheme.
var webhookSecretOf = regexp.MustCompile(`secrets? .*of webhooks`)

// headerFields returns fields with those of the file that a flag names, if any.
func headerFields(flag, path string, fields []string) ([]string, error) {
	if path == "" {
		return fields, nil
	}
	b, err := readBounded(path)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	lines := nonEmptyLines(string(b))
	if lines == nil {
		return nil, usagef("--%s: %s has no header field", flag, path)
	}
	return append(lines, fields...), nil
}

func nonEmptyLines(s string) (lines []string) {
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// webhook returns nil if signatures are not asked for.
func (f *requestFlags) webhook() (*agent.Webhook, error) {
	fromEnv := f.p.getenv(envWebhookSecret)
	if f.verifyWebhook == "" {
		switch {
		case f.webhookSecretFile != "":
			return nil, usagef("--webhook-secret-file: nothing is verified with it: want --verify-webhook too")
		case fromEnv != "":
			return nil, usagef("the environment has %s, and nothing is verified with it: want --verify-webhook too", envWebhookSecret)
		}
		return nil, nil
	}
	w := &agent.Webhook{Scheme: f.verifyWebhook, Tolerance: f.webhookTolerance, Secrets: nonEmptyLines(fromEnv)}
	switch {
	case f.webhookSecretFile != "" && fromEnv != "":
		return nil, usagef("there are both --webhook-secret-file and %s: want one of them", envWebhookSecret)
	case f.webhookSecretFile != "":
		s, err := auth.LoadSecret(f.webhookSecretFile)
		if err != nil {
			return nil, fmt.Errorf("--webhook-secret-file: %w", err)
		}
		w.Secrets = nonEmptyLines(s.Reveal())
	case fromEnv == "":
		return nil, usagef("--verify-webhook: no secret: set --webhook-secret-file or %s", envWebhookSecret)
	}
	if w.Tolerance == 0 {
		return nil, usagef("--webhook-tolerance 0s: 1s to 1h are allowed")
	}
	return w, nil
}
