package forest

import (
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	globs := func(all ...string) (set []Entry) {
		for _, g := range all {
			set = append(set, Entry{ListenHostnameGlob: g})
		}
		return set
	}
	for _, tt := range []struct {
		name  string
		globs []Entry
		host  string
		want  string
	}{
		{"exact", globs("a.test", "b.test"), "a.test", "a.test"},
		{"order does not matter", globs("*", "*.a.test", "x.a.test"), "x.a.test", "x.a.test"},
		{"dots are characters", globs("*.test", "*"), "b.a.test", "*.test"},
		{"the name itself is not below it", globs("*.test"), "test", "none"},
		{"case of the glob", globs("A.Test"), "a.test", "A.Test"},
		{"no name", globs("a.test", ""), "", ""},
		{"no name, no match", globs("a.test"), "", "none"},
		{"two stars", globs("**"), "", "**"},
		{"star within", globs("a*c.test"), "abbc.test", "a*c.test"},
		{"parts do not overlap", globs("aba*ba"), "aba", "none"},
		{"question marks are no wildcards", globs("?.test"), "a.test", "none"},
		{"first of equals", globs("a.*", "*.b"), "a.b", "a.*"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := "none"
			if e := choose(tt.globs, tt.host); e != nil {
				got = e.ListenHostnameGlob
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSetForms(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, set, want string }{
		{"single-port", `[{"listenport":1,"ListenAddress":"::1","BackEndService":"x","ClientIdentifier":"c","Comment":1}]`,
			`[{"HaProxyProxyProtocol":false,"ListenAddress":"::1","ListenHostnameGlob":"","ListenPort":1,"BackEndService":"x","ClientIdentifier":"c"}]`},
		{"host names", `[{"ListenPort":1,"ListenAddress":"::1","BackEndPort":7,"ClientIdentifier":"c"}]`,
			`[{"HaProxyProxyProtocol":false,"ListenAddress":"::1","ListenHostnameGlob":"","ListenPort":1,"BackEndPort":7,"ClientIdentifier":"c"}]`},
		{"two-port", `[{"FrontEndListenPort":1,"BackEndPort":7,"ClientIdentifier":"c","HaProxyProxyProtocol":true}]`,
			`[{"HaProxyProxyProtocol":true,"FrontEndListenPort":1,"BackEndPort":7,"ClientIdentifier":"c"}]`},
		{"first README", `[{"ClientIdentifier":"c","FrontEndListenPort":1,"BackEndPort":7,"ProxyProtocol":true}]`,
			`[{"ProxyProtocol":true,"FrontEndListenPort":1,"BackEndPort":7,"ClientIdentifier":"c"}]`},
		{"threshold", `[{"ListenPort":1,"ListenAddress":"::1","BackEndService":"x","ClientId":"c"}]`,
			`[{"HaProxyProxyProtocol":false,"ListenAddress":"::1","ListenHostnameGlob":"","ListenPort":1,"BackEndService":"x","ClientIdentifier":"c"}]`},
		{"empty", `[]`, `[]`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set, f, _, err := parseSet([]byte(tt.set), form{})
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := appendSet(set, f); string(got) != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestUnknownKeys(t *testing.T) {
	t.Parallel()
	c, unknown, err := ParseServerConfig([]byte(`{"listenport":9056,"Listenprot":1,"DebugLog":true}`))
	if err != nil || c.ListenPort != 9056 || len(unknown) != 1 || unknown[0] != "Listenprot" {
		t.Errorf("got %+v, %q, %v, want port 9056 and Listenprot unknown", c, unknown, err)
	}
	for _, bad := range []string{`{`, `[]`, `{"ListenPort":"x"}`, `{} {}`} {
		if _, _, err := ParseServerConfig([]byte(bad)); err == nil {
			t.Errorf("%s: got no error", bad)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(`{"action":1,"service":"fooService"}` + "\n")
	f.Add(`{"action":1,"transportProtocol":2,"localPort":43711}{"action":1}`)
	f.Add(`[1]`)
	f.Fuzz(func(t *testing.T, s string) {
		r := newMessageReader(strings.NewReader(s))
		for range 1 << 16 {
			if _, err := r.next(); err != nil {
				return
			}
		}
	})
}

func FuzzSet(f *testing.F) {
	f.Add([]byte(`[{"ListenPort":1,"ListenAddress":"::1","BackEndService":"x","ClientId":"c"}]`))
	f.Add([]byte(`[{"FrontEndListenPort":1,"BackEndPort":7,"ClientIdentifier":"c","HaProxyProxyProtocol":true}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		set, form, _, err := parseSet(b, form{})
		if err != nil {
			return
		}
		out, err := appendSet(set, form)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := parseSet(out, form); err != nil {
			t.Errorf("%q: what is answered is not read again: %v", out, err)
		}
		choose(set, "a.b.test")
	})
}

func FuzzRevoked(f *testing.F) {
	f.Add([]byte("# lost\n0A:0b:0c\n"))
	f.Fuzz(func(t *testing.T, b []byte) { parseRevoked(b) })
}
