package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/pflag"

	"adit/agent"
	"adit/auth"
	"adit/config"
	"adit/dialect"
	"adit/policy"
	"adit/server"
	"adit/tunnel"
)

// connFlags are the rules that count for all kinds of visitors.
type connFlags struct {
	allowIP, denyIP []string
	rate, totalRate string
}

func (f *connFlags) add(fl *pflag.FlagSet, what string) {
	fl.StringSliceVar(&f.allowIP, "allow-ip", nil, "only visitors of these addresses or networks may enter, such as 192.0.2.7,2001:db8::/32")
	fl.StringSliceVar(&f.denyIP, "deny-ip", nil, "visitors of these addresses or networks may not enter")
	fl.StringVar(&f.rate, "rate", "", what+" of one visitor, such as 100/s, 600/m or 20/h; with a burst: 100/s,burst=200")
	fl.StringVar(&f.totalRate, "total-rate", "", what+" of all visitors together, as for --rate")
}

// apply puts the flags into a policy. The error has all that is wrong.
func (f *connFlags) apply(to *policy.Policy) error {
	var problems [4]error
	to.AllowIP, problems[0] = parseNetworks("allow-ip", f.allowIP)
	to.DenyIP, problems[1] = parseNetworks("deny-ip", f.denyIP)
	to.Rate, problems[2] = parseRate("rate", f.rate)
	to.TotalRate, problems[3] = parseRate("total-rate", f.totalRate)
	return config.Join(problems[:]...)
}

func parseNetworks(flag string, list []string) (networks []netip.Prefix, err error) {
	for _, s := range list {
		p, err := policy.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, usagef("--%s: %v", flag, err)
		}
		networks = append(networks, p)
	}
	return networks, nil
}

func parseRate(flag, s string) (policy.Rate, error) {
	if s == "" {
		return policy.Rate{}, nil
	}
	r, err := policy.ParseRate(s)
	if err != nil {
		return r, usagef("--%s: %v", flag, err)
	}
	return r, nil
}

// ruleFlags are the flags that keep visitors out. Set where nothing heeds them
// they would leave a door open that somebody believes is shut.
var ruleFlags = []string{
	"allow-ip", "deny-ip", "rate", "total-rate", "max-body", "basic-auth", "basic-auth-file",
	"viewer-tokens", "viewer-key-file", "visitor-ca-file", "verify-webhook",
}

// ruleAnnotation marks those flags in a command.
const ruleAnnotation = "adit_rule"

func markRules(fl *pflag.FlagSet) {
	if fl.Lookup("basic-auth") != nil {
		fl.SetAnnotation("basic-auth", config.Secret, []string{"true"})
	}
	for _, name := range ruleFlags {
		if fl.Lookup(name) != nil {
			fl.SetAnnotation(name, ruleAnnotation, []string{"true"})
		}
	}
}

// unheeded returns a variable of the environment that stands for a rule which
// the flags of a command that has rules do not know; empty if there is none.
func unheeded(fl *pflag.FlagSet, values map[string]string) string {
	hasRules := false
	fl.VisitAll(func(f *pflag.Flag) { hasRules = hasRules || f.Annotations[ruleAnnotation] != nil })
	if !hasRules {
		return ""
	}
	for _, name := range ruleFlags {
		if _, set := values[envName(name)]; set && fl.Lookup(name) == nil {
			return envName(name)
		}
	}
	if _, set := values[envWebhookSecret]; set && fl.Lookup("basic-auth") != nil && fl.Lookup("verify-webhook") == nil {
		return envWebhookSecret
	}
	return ""
}

// serverPolicyFlags are what an operator asks of all visitors of a server.
type serverPolicyFlags struct {
	conns   connFlags
	maxBody string
}

func (f *serverPolicyFlags) add(fl *pflag.FlagSet) {
	f.conns.add(fl, "requests and connections")
	fl.StringVar(&f.maxBody, "max-body", "", "longest body of a request, such as 10MiB (default any)")
	markRules(fl)
}

func (f *serverPolicyFlags) apply(opts *server.Options) error {
	var size error
	opts.Policy.MaxBody, size = parseSize("max-body", f.maxBody)
	if err := config.Join(f.conns.apply(&opts.Policy), size); err != nil {
		return err
	}
	return checked(opts.Policy.CheckHTTP())
}

// policyFlags are what an agent asks of the visitors of a tunnel.
type policyFlags struct {
	p     *program
	conns connFlags

	maxBody           string
	basicAuth         []string
	basicAuthFile     string
	passAuthorization bool
	viewerTokens      bool
	viewerKeyFile     string
	visitorCAFile     string

	agentErrors bool // no flag: the agent answers some requests itself
}

// addTCP adds the flags for tunnels of connections. Those that are about
// requests are there too, hidden: to use one is an error that says so, also from
// the environment.
func (f *policyFlags) addTCP(fl *pflag.FlagSet) {
	requests := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.addRequests(requests)
	requests.VisitAll(func(r *pflag.Flag) { r.Hidden = true })
	f.conns.add(fl, "connections")
	fl.AddFlagSet(requests)
	markRules(fl)
}

// addHTTP adds the flags for HTTP tunnels.
func (f *policyFlags) addHTTP(fl *pflag.FlagSet) {
	f.conns.add(fl, "requests")
	f.addRequests(fl)
	markRules(fl)
}

func (f *policyFlags) addRequests(fl *pflag.FlagSet) {
	fl.StringVar(&f.maxBody, "max-body", "", "longest body of a request, such as 10MiB (default any)")
	fl.StringArrayVar(&f.basicAuth, "basic-auth", nil, "user:password that visitors have to give; may be given several times, and others on this machine can see it: see --basic-auth-file")
	fl.StringVar(&f.basicAuthFile, "basic-auth-file", "", "file with a login in each line, as htpasswd -B makes it")
	fl.BoolVar(&f.passAuthorization, "pass-authorization", false, "let the upstream see the user and password of --basic-auth")
	fl.BoolVar(&f.viewerTokens, "viewer-tokens", false, "visitors need a token or link, which adit token viewer makes on this machine")
	fl.StringVar(&f.viewerKeyFile, "viewer-key-file", "", "file with the key of viewer tokens, instead of one of this machine")
	fl.StringVar(&f.visitorCAFile, "visitor-ca-file", "", "file with certificates of authorities; visitors need a certificate of one of them")
}

// policy returns what the flags say for a tunnel of that kind and ID. The error
// has all that is wrong.
func (f *policyFlags) policy(t agent.Tunnel) (p policy.Policy, err error) {
	problems := []error{f.conns.apply(&p)}
	wrong := func(err error) { problems = append(problems, err) }
	p.AgentErrors = f.agentErrors
	p.MaxBody, err = parseSize("max-body", f.maxBody)
	wrong(err)
	p.BasicAuth, err = f.logins()
	wrong(err)
	if p.PassAuthorization = f.passAuthorization; p.PassAuthorization && p.BasicAuth == nil && err == nil {
		wrong(usagef("--pass-authorization: without --basic-auth the upstream sees Authorization anyway"))
	}
	if (f.viewerTokens || f.viewerKeyFile != "") && t.ID != "" { // without one that is wrong already
		p.ViewerKeys, err = f.p.viewerKeys(f.viewerKeyFile, t.ID)
		wrong(err)
	}
	if f.visitorCAFile != "" {
		b, err := readBounded(f.visitorCAFile)
		if err != nil {
			wrong(fmt.Errorf("--visitor-ca-file: %w", err))
		}
		p.VisitorCA = string(b)
	}
	if err := config.Join(problems...); err != nil {
		return p, err
	}
	if t.Kind == dialect.HTTP {
		return p, checked(p.CheckHTTP())
	}
	return p, checked(p.CheckTCP())
}

// apply sets the tunnel's policy.
func (f *policyFlags) apply(t *agent.Tunnel) error {
	p, err := f.policy(*t)
	if err != nil || p.IsZero() {
		return err
	}
	t.Policy, err = p.Encode()
	return checked(err)
}

// flagOfRule are the flags of the fields of a policy that are called otherwise.
var flagOfRule = map[string]string{"viewer_keys": "viewer-tokens", "visitor_ca": "visitor-ca-file"}

// checked makes an error about a policy, which begins with the name of a field,
// one about the flag.
func checked(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	end := strings.IndexAny(text, ": ")
	if end < 0 {
		return usagef("%s", text)
	}
	flag, ok := flagOfRule[text[:end]]
	if !ok {
		flag = strings.ReplaceAll(text[:end], "_", "-")
	}
	if !slices.Contains(ruleFlags, flag) {
		return usagef("%s", text)
	}
	return usagef("--%s%s", flag, text[end:])
}

// logins are those of --basic-auth and --basic-auth-file.
func (f *policyFlags) logins() (logins []policy.Login, err error) {
	for _, s := range f.basicAuth {
		user, password, ok := strings.Cut(s, ":")
		if !ok {
			return nil, usagef("--basic-auth: want user:password") // and not s, which may be a password
		}
		l, err := newLogin(user, password)
		if err != nil {
			return nil, usagef("--basic-auth: %v", err)
		}
		logins = append(logins, l)
	}
	if f.basicAuthFile == "" {
		return logins, nil
	}
	b, err := readBounded(f.basicAuthFile)
	if err != nil {
		return nil, fmt.Errorf("--basic-auth-file: %w", err)
	}
	lines := bufio.NewScanner(strings.NewReader(string(b)))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		l, err := policy.ParseLogin(line)
		if err != nil {
			return nil, usagef("--basic-auth-file %s: line %d: %v", f.basicAuthFile, n, err)
		}
		logins = append(logins, l)
	}
	if logins == nil {
		return nil, usagef("--basic-auth-file %s: it has no login: nobody could enter", f.basicAuthFile)
	}
	return logins, nil
}

// madeLogins has the logins that were made before, by a digest of user and
// password: when a config file is read again the same ones are no change.
var madeLogins sync.Map

func newLogin(user, password string) (policy.Login, error) {
	key := sha256.Sum256(fmt.Appendf(nil, "%d:%s:%s", len(user), user, password))
	if l, ok := madeLogins.Load(key); ok {
		return l.(policy.Login), nil
	}
	l, err := policy.NewLogin(user, password)
	if err != nil {
		return l, err
	}
	kept, _ := madeLogins.LoadOrStore(key, l)
	return kept.(policy.Login), nil
}

// maxRules bounds the files that rules are read from, in bytes.
const maxRules = 64 << 10

func readBounded(path string) ([]byte, error) { return config.ReadFile(path, maxRules) }

// viewerKeys loads the keys of an ID's viewer tokens: the one to sign with, and
// perhaps a second one, which is on its way out. Without a file they are those
// of this machine and user, made when they are needed first.
func (p *program) viewerKeys(file string, id tunnel.ID) ([]policy.ViewerKey, error) {
	master, err := p.viewerMaster(file)
	if err != nil {
		return nil, err
	}
	return keysOf(master, id)
}

// viewerMaster loads what keys are made of.
func (p *program) viewerMaster(file string) (auth.Secret, error) {
	if file != "" {
		return auth.LoadSecret(file)
	}
	s, _, err := auth.LoadOrCreateSecret(filepath.Join(p.dataDir(), "viewers"))
	return s, err
}

// keysOf makes an ID's keys.
func keysOf(s auth.Secret, id tunnel.ID) (keys []policy.ViewerKey, err error) {
	for _, line := range nonEmptyLines(s.Reveal()) {
		k, err := policy.NewViewerKey([]byte(line), id)
		if err != nil {
			return nil, usagef("--viewer-key-file: %v", err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

// parseSize parses a number of bytes; 0 stands for none.
func parseSize(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	for _, u := range sizeUnits {
		digits, ok := cutSuffixFold(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err == nil && n > 0 && n <= math.MaxInt64/u.bytes {
			return n * u.bytes, nil
		}
		break
	}
	return 0, usagef("--%s %q: want a size above 0, such as 500kB, 10MiB or 1048576", flag, s)
}

func cutSuffixFold(s, suffix string) (string, bool) {
	at := len(s) - len(suffix)
	if at < 0 || !strings.EqualFold(s[at:], suffix) {
		return s, false
	}
	return s[:at], true
}
