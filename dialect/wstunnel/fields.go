package wstunnel

import (
	"bytes"
	"slices"

	"adit/internal/http1"
)

// sortFields puts fields into the order and their names into the form in which
// net/http writes them, and so the original. It changes the names where they
// are.
func sortFields(fields []http1.Field) {
	for i := range fields {
		canonical(fields[i].Name)
	}
	if len(fields) > 32 {
		slices.SortStableFunc(fields, func(a, b http1.Field) int { return bytes.Compare(a.Name, b.Name) })
		return
	}
	for i := 1; i < len(fields); i++ {
		for j := i; j > 0 && bytes.Compare(fields[j].Name, fields[j-1].Name) < 0; j-- {
			fields[j], fields[j-1] = fields[j-1], fields[j]
		}
	}
}

// canonical gives a name, which is a token, the form that
// textproto.CanonicalMIMEHeaderKey does.
func canonical(name []byte) {
	upper := true
	for i, c := range name {
		switch {
		case upper && 'a' <= c && c <= 'z':
			name[i] = c - ('a' - 'A')
		case !upper && 'A' <= c && c <= 'Z':
			name[i] = c + ('a' - 'A')
		}
		upper = c == '-'
	}
}

// appendFields appends the lines of all fields that keep is true for.
func appendFields(b []byte, fields []http1.Field, keep func(*http1.Field) bool) []byte {
	for i := range fields {
		if f := &fields[i]; keep(f) {
			b = http1.AppendField(b, f.Name, f.Value)
		}
	}
	return b
}

// firstValue returns the value of the first field of that name, which is given
// in lower case, and whether there is one.
func firstValue(fields []http1.Field, name string) ([]byte, bool) {
	for i := range fields {
		if http1.EqualFold(fields[i].Name, name) {
			return fields[i].Value, true
		}
	}
	return nil, false
}
