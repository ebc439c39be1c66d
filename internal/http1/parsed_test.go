package http1_test

import (
	"testing"

	"adit/internal/http1"
)

func TestParsedCheck(t *testing.T) {
	t.Parallel()
	good := func() http1.Parsed {
		return http1.Parsed{Method: "GET", Target: "/a?b=%zz", Host: "example.com:8443", Fields: map[string][]string{
			"Content-Length": {"3"}, "Cookie": {"a", "b"}, "Host": {"EXAMPLE.com:8443"},
		}}
	}
	if err := good().Check(http1.Limits{}); err != nil {
		t.Errorf("good: got %v", err)
	}
	options := good()
	options.Method, options.Target = "OPTIONS", "*"
	if err := options.Check(http1.Limits{}); err != nil {
		t.Errorf("OPTIONS *: got %v", err)
	}
	for name, tc := range map[string]struct {
		change func(*http1.Parsed)
		want   error
	}{
		"space in the method":    {func(p *http1.Parsed) { p.Method = "GET /admin HTTP/1.1" }, http1.ErrMethod},
		"line end in the method": {func(p *http1.Parsed) { p.Method = "GET\r\nX: y" }, http1.ErrMethod},
		"empty method":           {func(p *http1.Parsed) { p.Method = "" }, http1.ErrMethod},
		"CONNECT":                {func(p *http1.Parsed) { p.Method = "CONNECT" }, http1.ErrConnect},
		"space in the path":      {func(p *http1.Parsed) { p.Target = "/ HTTP/1.1" }, http1.ErrTarget},
		"space in the query":     {func(p *http1.Parsed) { p.Target = "/?x HTTP/1.0" }, http1.ErrTarget},
		"line end in the path":   {func(p *http1.Parsed) { p.Target = "/\r\nX: y" }, http1.ErrTarget},
		"NUL in the path":        {func(p *http1.Parsed) { p.Target = "/%00" }, http1.ErrTarget},
		"broken escape":          {func(p *http1.Parsed) { p.Target = "/%2" }, http1.ErrTarget},
		"fragment":               {func(p *http1.Parsed) { p.Target = "/#a" }, http1.ErrTarget},
		"no slash":               {func(p *http1.Parsed) { p.Target = "a" }, http1.ErrTarget},
		"absolute form":          {func(p *http1.Parsed) { p.Target = "http://example.com/" }, http1.ErrTarget},
		"star":                   {func(p *http1.Parsed) { p.Target = "*" }, http1.ErrTarget},
		"empty target":           {func(p *http1.Parsed) { p.Target = "" }, http1.ErrTarget},
		"long target":            {func(p *http1.Parsed) { p.Target = "/" + string(make([]byte, 1<<15)) }, http1.ErrTargetTooLong},
		"two hosts":              {func(p *http1.Parsed) { p.Fields["Host"] = []string{"example.com:8443", "other"} }, http1.ErrHostDisagrees},
		"userinfo":               {func(p *http1.Parsed) { p.Host = "a@example.com" }, http1.ErrHost},
		"letters for a port":     {func(p *http1.Parsed) { p.Host = "example.com:https" }, http1.ErrHost},
		"two lengths":            {func(p *http1.Parsed) { p.Fields["Content-Length"] = []string{"3", "3"} }, http1.ErrManyLengths},
		"list of lengths":        {func(p *http1.Parsed) { p.Fields["Content-Length"] = []string{"3, 3"} }, http1.ErrLength},
		"signed length":          {func(p *http1.Parsed) { p.Fields["Content-Length"] = []string{"+3"} }, http1.ErrLength},
		"line end in a value":    {func(p *http1.Parsed) { p.Fields["X"] = []string{"a\r\nHost: b"} }, http1.ErrFieldValue},
		"colon in a name":        {func(p *http1.Parsed) { p.Fields["X:a"] = []string{"b"} }, http1.ErrFieldName},
		"line end in a name":     {func(p *http1.Parsed) { p.Fields["X\r\nHost"] = []string{"b"} }, http1.ErrFieldName},
		"many fields":            {func(p *http1.Parsed) { p.Fields["X"] = make([]string, 201) }, http1.ErrTooManyFields},
	} {
		p := good()
		tc.change(&p)
		if err := p.Check(http1.Limits{}); err != tc.want {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}
