package admin

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"adit/auth"
)

type anyServer struct{ Server }
type anyAgent struct{ Agent }

// Each path that there is stands in openapi.yaml, and each one there exists.
func TestOpenAPIIsTrue(t *testing.T) {
	t.Parallel()
	h, err := New(Options{Server: anyServer{}, Agent: anyAgent{}, Token: auth.NewSecret(), Metrics: &Handler{}})
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, r := range h.routes() {
		have = append(have, r.pattern)
	}
	described := described(string(openAPI))
	for _, p := range have {
		if !slices.Contains(described, p) {
			t.Errorf("%s is not in openapi.yaml", p)
		}
	}
	for _, p := range described {
		if !slices.Contains(have, p) {
			t.Errorf("openapi.yaml has %s, which is not there", p)
		}
	}
}

// described returns the patterns of a description whose paths are indented by
// two spaces, and their methods by four.
func described(text string) (patterns []string) {
	path := regexp.MustCompile(`^  (/\S*):$`)
	method := regexp.MustCompile(`^    (get|put|post|delete|patch|head|options|trace):$`)
	at := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if m := path.FindStringSubmatch(line); m != nil {
			at = m[1]
		} else if m := method.FindStringSubmatch(line); m != nil {
			patterns = append(patterns, strings.ToUpper(m[1])+" "+at)
		}
	}
	return patterns
}
