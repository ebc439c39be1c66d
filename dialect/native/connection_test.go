package native

import (
	"net/http"
	"strings"
	"testing"
)

func TestConnectionHeader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, run string
		n         int
		ok        bool
	}{
		{"", "", 0, true},
		{formatConnection("Abc7", 16), "Abc7", 16, true},
		{"a.1", "a", 1, true},
		{"a", "", 0, false},
		{".1", "", 0, false},
		{"a.0", "", 0, false},
		{"a.01", "", 0, false},
		{"a.17", "", 0, false},
		{"a.1.2", "", 0, false},
		{"a b.1", "", 0, false},
		{strings.Repeat("a", maxRun+1) + ".1", "", 0, false},
	} {
		h := http.Header{}
		if tt.text != "" {
			h.Set(headerConnection, tt.text)
		}
		run, n, err := parseConnection(h)
		if run != tt.run || n != tt.n || (err == nil) != tt.ok {
			t.Errorf("%q: got %q, %d, %v; want %q, %d, ok %v", tt.text, run, n, err, tt.run, tt.n, tt.ok)
		}
	}
}
