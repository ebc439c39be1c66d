package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"adit/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flags are the schema of these tests.
type flags struct {
	set      *pflag.FlagSet
	listen   string
	pathMode bool
	hold     time.Duration
	memory   int64
	port     uint16
	ports    []string
	lines    []string
	password []string
}

func newFlags() *flags {
	f := &flags{set: pflag.NewFlagSet("test", pflag.ContinueOnError)}
	f.set.StringVar(&f.listen, "listen", ":8080", "")
	f.set.BoolVar(&f.pathMode, "path-mode", false, "")
	f.set.DurationVar(&f.hold, "hold", 30*time.Second, "")
	f.set.Int64Var(&f.memory, "buffer-memory", 512, "")
	f.set.Uint16Var(&f.port, "port", 0, "")
	f.set.StringSliceVar(&f.ports, "tcp-ports", []string{"1"}, "")
	f.set.StringArrayVar(&f.lines, "header", nil, "")
	f.set.StringArrayVar(&f.password, "basic-auth", nil, "")
	f.set.SetAnnotation("basic-auth", config.Secret, []string{"true"})
	f.set.String("config", "", "")
	f.set.SetAnnotation("config", config.NotInFile, []string{"true"})
	f.set.Bool("help", false, "")
	f.set.String("obscure", "", "")
	f.set.Lookup("obscure").Hidden = true
	return f
}

func apply(t *testing.T, f *flags, text string, others ...string) error {
	t.Helper()
	file, err := config.Parse("x.yaml", []byte(text))
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return file.Top.Apply(f.set, others...)
}

func TestApply(t *testing.T) {
	t.Parallel()
	f := newFlags()
	if err := f.set.Parse([]string{"--hold", "5s", "--header", "a: b"}); err != nil {
		t.Fatal(err)
	}
	err := apply(t, f, `
# A comment.
listen: 127.0.0.1:80
path-mode: true
hold: 1m   # set on the command line
buffer-memory: 64
port: 0x16
tcp-ports:
  - 2222
  - "3000-3099"
header: [x, y]
obscure: "true"
tunnels: [1]
`, "tunnels")
	if err != nil {
		t.Fatal(err)
	}
	if f.listen != "127.0.0.1:80" || !f.pathMode || f.hold != 5*time.Second || f.memory != 64 || f.port != 22 ||
		!slices.Equal(f.ports, []string{"2222", "3000-3099"}) || !slices.Equal(f.lines, []string{"a: b"}) {
		t.Errorf("got %+v", f)
	}
	for _, name := range []string{"listen", "path-mode", "tcp-ports"} {
		if !f.set.Changed(name) {
			t.Errorf("%s does not count as set", name)
		}
	}

	f = newFlags()
	if err := apply(t, f, "tcp-ports: 2222,3000-3099\nheader: a, b\nbasic-auth: []\nhold: 0\n"); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.ports, []string{"2222", "3000-3099"}) || !slices.Equal(f.lines, []string{"a, b"}) || f.hold != 0 {
		t.Errorf("single values of lists: got %q, %q", f.ports, f.lines)
	}
	for _, empty := range []string{"", "\n", "# nothing\n", "---\n", "--- {}\n", "\ufeff"} {
		if err := apply(t, newFlags(), empty); err != nil {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

// Every problem says where it is, and what is allowed instead.
func TestProblems(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 100)
	for _, tt := range []struct {
		name, text string
		want       []string // each a whole line, or its beginning if it ends with "…"
	}{
		{"unknown key", "listne: x\n", []string{"x.yaml:1:1: listne is not known here: did you mean listen?"}},
		{"unlike any key", "\n\n  colour: red\n", []string{"x.yaml:3:3: colour is not known here"}},
		{"key of the environment", "PATH_MODE: true\n", []string{"x.yaml:1:1: PATH_MODE is not known here"}},
		{"underscore", "path_mode: true\n", []string{"x.yaml:1:1: path_mode is not known here: did you mean path-mode?"}},
		{"help", "help: true\n", []string{"x.yaml:1:1: help is not known here"}},
		{"not in a file", "config: other.yaml\n", []string{"x.yaml:1:1: config is not known here"}},
		{"hidden keys are not suggested", "obscur: x\n", []string{"x.yaml:1:1: obscur is not known here"}},
		{"suggests what the caller handles", "tunels: []\n", []string{"x.yaml:1:1: tunels is not known here: did you mean tunnels?"}},
		{"long key", long + ": 1\n", []string{`x.yaml:1:1: "` + long[:64] + `" is not known here`}},
		{"key with control characters", "\"a\\nb\": 1\n", []string{`x.yaml:1:1: "a\nb" is not known here`}},
		{"empty key", ": 1\n", []string{"x.yaml:1:1: …"}},
		{"all of them", "hold: soon\nlisten: [a]\nport: 70000\npath-mode: yes\n", []string{
			`x.yaml:1:7: hold: "soon": want a time such as 30s, 5m or 1h`,
			`x.yaml:2:9: listen: want text, but this is a list`,
			`x.yaml:3:7: port: "70000": want a whole number from 0 to 65535`,
			`x.yaml:4:12: path-mode: "yes": want true or false`,
		}},
		{"number without unit", "hold: 30\n", []string{`x.yaml:1:7: hold: "30": want a time such as 30s, 5m or 1h`}},
		{"negative", "port: -1\n", []string{`x.yaml:1:7: port: "-1": want a whole number from 0 to 65535`}},
		{"fraction", "buffer-memory: 1.5\n", []string{`x.yaml:1:16: buffer-memory: "1.5": want a whole number`}},
		{"number in quotes", "port: '22'\n", []string{`x.yaml:1:7: port: "22": want a whole number from 0 to 65535`}},
		{"boolean in quotes", "path-mode: 'true'\n", []string{`x.yaml:1:12: path-mode: "true": want true or false`}},
		{"boolean for text", "listen: true\n", []string{"x.yaml:1:9: listen: want text, but true alone is not text: put it in quotes if it is meant so"}},
		{"no value", "listen:\n", []string{"x.yaml:1:8: listen: it has no value: want text"}},
		{"mapping for text", "listen: {a: b}\n", []string{"x.yaml:1:9: listen: want text, but this is a mapping"}},
		{"mapping for a list", "tcp-ports: {a: b}\n", []string{"x.yaml:1:12: tcp-ports: want a list, each text, but this is a mapping"}},
		{"in a list", "tcp-ports:\n  - 1\n  - [2]\n  - true\n  -\n", []string{
			"x.yaml:3:5: tcp-ports: want a list, each text, but this is a list",
			"x.yaml:4:5: tcp-ports: want a list, each text, but true alone is not text: put it in quotes if it is meant so",
			"x.yaml:5:4: tcp-ports: it has no value: want a list, each text",
		}},
		{"twice", "listen: a\nhold: 1s\nlisten: b\n", []string{"x.yaml:3:1: listen is set a second time: it is in line 1 already"}},
		{"twice further down", "tunnels:\n  - id: a\n    id: b\n", []string{"x.yaml:3:5: id is set a second time: it is in line 2 already"}},
		{"alias", "listen: &a x\nhold: *a\n", []string{"x.yaml:1:9: anchors are not allowed", "x.yaml:2:7: aliases are not allowed"}},
		{"alias of nothing", "listen: *a\n", []string{"x.yaml:1:9: unknown anchor 'a' referenced"}},
		{"merge", "tunnels: [{}]\n<<: {a: b}\n", []string{"x.yaml:2:1: merge keys are not allowed"}},
		{"tag", "listen: !!binary aGk=\n", []string{"x.yaml:1:9: tags are not allowed"}},
		{"own tag", "listen: !secret x\n", []string{"x.yaml:1:9: tags are not allowed"}},
		{"list as key", "[a, b]: c\n", []string{"x.yaml:1:1: a key has to be a name, but this is a list"}},
		{"deep", strings.Repeat("[", 50) + strings.Repeat("]", 50), []string{"x.yaml:1:17: too many mappings and lists inside of one another"}},
		{"very deep", strings.Repeat("[", 100_000), []string{"x.yaml:…"}},
		{"a list at the top", "- a\n- b\n", []string{`x.yaml:1:1: want settings such as "name: value", but this is a list`}},
		{"a word at the top", "listen\n", []string{`x.yaml:1:1: want settings such as "name: value", but this is a single value`}},
		{"two documents", "listen: a\n---\nlisten: b\n", []string{"x.yaml:2:1: a second document begins here: want one"}},
		{"tab", "tunnels:\n\t- a\n", []string{"x.yaml:2:1: while scanning for the next token: found character that cannot start any token (YAML indents with spaces, not with tabs)"}},
		{"two colons", "listen: a: b\n", []string{"x.yaml:1:10: mapping values are not allowed in this context"}},
		{"open quote", "listen: 'a\n", []string{"x.yaml:2:1: while scanning a quoted scalar that begins in line 1, column 9: found unexpected end of stream"}},
		{"control characters", "listen: \x01\n", []string{"x.yaml:1:1: …"}},
		{"not UTF-8", "listen: \xff\n", []string{"x.yaml:1:1: …"}},
		{"too large", strings.Repeat("#", 1<<20+1), []string{"x.yaml:1:1: the file has more than 1048576 bytes"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file, err := config.Parse("x.yaml", []byte(tt.text))
			if err == nil {
				err = file.Top.Apply(newFlags().set, "tunnels")
			}
			var got []string
			for _, p := range config.Problems(err) {
				got = append(got, p.Error())
			}
			same := func(got, want string) bool {
				begin, open := strings.CutSuffix(want, "…")
				return got == want || open && strings.HasPrefix(got, begin)
			}
			if !slices.EqualFunc(got, tt.want, same) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// A file that would stand for billions of values is refused as fast as any
// other.
func TestBomb(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	begin := time.Now()
	_, err := config.Parse("x.yaml", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "aliases are not allowed") {
		t.Errorf("got %v", err)
	}
	if n := len(config.Problems(err)); n > 60 {
		t.Errorf("got %d problems, want a bounded number", n)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestSections(t *testing.T) {
	t.Parallel()
	file, err := config.Parse("x.yaml", []byte("tunnels:\n  - http: 3000\n    port: 1\n  - tcp: true\n  - web\nother: {a: b}\nempty: []\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Top.Setting("tunnels").Sections(); err == nil || err.Error() != `x.yaml:5:5: tunnels: want settings such as "name: value", but this is a single value` {
		t.Errorf("got %v", err)
	}
	if _, err := file.Top.Setting("other").Sections(); err == nil || !strings.HasPrefix(err.Error(), "x.yaml:6:8: other: want a list") {
		t.Errorf("got %v", err)
	}
	if s, err := file.Top.Setting("empty").Sections(); err != nil || len(s) != 0 {
		t.Errorf("got %v, %v", s, err)
	}
	sections, _ := file.Top.Setting("tunnels").Sections()
	if len(sections) != 2 || fmt.Sprint(sections[0]) != "x.yaml:2:5" {
		t.Fatalf("got %v", sections)
	}
	if text, err := sections[0].Setting("http").Text(); text != "3000" || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
	if _, err := sections[1].Setting("tcp").Text(); err == nil || !strings.HasPrefix(err.Error(), "x.yaml:4:10: tcp: want text") {
		t.Errorf("got %v", err)
	}
	f := newFlags()
	if err := sections[0].Apply(f.set, "http"); err != nil || f.port != 1 {
		t.Errorf("got %v, %d", err, f.port)
	}
	if file.Top.Setting("nothing") != nil {
		t.Error("a setting that is not there")
	}
	if got := sections[0].Problem("it is %s", "odd").Error(); got != "x.yaml:2:5: it is odd" {
		t.Errorf("got %s", got)
	}
}

// Secrets appear in no message and no printed value.
func TestSecrets(t *testing.T) {
	t.Parallel()
	const marked = "hunter2-marked"
	for _, text := range []string{
		"basic-auth: {user: " + marked + "}\n",
		"basic-auth: [[" + marked + "]]\n",
		"basic-aut: " + marked + "\n",
		"password: " + marked + "\n",
	} {
		file, err := config.Parse("x.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		err = file.Top.Apply(newFlags().set)
		if err == nil || strings.Contains(err.Error(), marked) {
			t.Errorf("%q: got %v", text, err)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			for _, v := range []any{file, file.Top, file.Top.Settings(), *file.Top.Settings()[0]} {
				if got := fmt.Sprintf(verb, v); strings.Contains(got, marked) {
					t.Errorf("%s prints %q", verb, got)
				}
			}
		}
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.yaml")
	if err := os.WriteFile(path, []byte("listen: a\nbasic-auth: a:b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFlags()
	file, err := config.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Top.Apply(f.set); err != nil || f.listen != "a" || len(f.password) != 1 {
		t.Errorf("got %v, %+v", err, f)
	}
	if _, err := config.Read(dir); err == nil || !strings.Contains(err.Error(), "no regular file") || !strings.Contains(err.Error(), dir) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := config.Read(path + ".not"); err == nil || !strings.Contains(err.Error(), "no such file") || strings.Count(err.Error(), path) != 1 {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("listen: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Read(path); err == nil || !strings.HasPrefix(err.Error(), path+":") {
		t.Errorf("a broken file: %v", err)
	}
}

func TestReadFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := config.ReadFile(path, 5); string(b) != "12345" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	if b, err := config.ReadFile(path, 4); b != nil || err == nil || err.Error() != path+": the file has more than 4 bytes" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := os.Chmod(path, 0o602); err != nil {
		t.Fatal(err)
	}
	if b, err := config.ReadFile(path, 5); runtime.GOOS != "windows" && (b != nil || err == nil || !strings.Contains(err.Error(), "chmod go-w")) {
		t.Errorf("got %q, %v", b, err)
	}
}
