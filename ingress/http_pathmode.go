package ingress

import (
	"bytes"
	"errors"

	"adit/internal/http1"
)

// errNoSlash says that a path is an ID without the slash that must follow.
var errNoSlash = errors.New("path ends with the ID")

// pathID returns the first segment of a target in origin-form, if it can be an
// ID as it is written: nothing is decoded or resolved, so that no two readers
// of a path find different IDs in it.
func pathID(target []byte) (id []byte, ok bool) {
	if len(target) == 0 || target[0] != '/' {
		return nil, false
	}
	end := 1
	for end < len(target) && target[end] != '/' && target[end] != '?' {
		if !idByte(target[end]) {
			return nil, false
		}
		end++
	}
	id = target[1:end]
	return id, len(id) > 0 && len(id) <= 255 && string(id) != "." && string(id) != ".."
}

func idByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '_' || c == '.' || c == '~'
}

// appendLocation appends a Location for visitors who see the upstream's paths
// below prefix. host is that of the request.
func appendLocation(out, location, host []byte, prefix string) []byte {
	path := location
	if i := bytes.Index(path, []byte("://")); i > 0 && (http1.EqualFold(path[:i], "http") || http1.EqualFold(path[:i], "https")) {
		path = path[i+1:]
	}
	if bytes.HasPrefix(path, []byte("//")) {
		end := 2
		for end < len(path) && path[end] != '/' && path[end] != '?' && path[end] != '#' {
			end++
		}
		if !bytes.EqualFold(path[2:end], host) {
			return append(out, location...) // another origin
		}
		path = path[end:]
	} else if len(path) == 0 || path[0] != '/' {
		return append(out, location...) // relative to the present path
	}
	out = append(out, location[:len(location)-len(path)]...)
	return appendPrefixed(out, path, prefix)
}

// appendPrefixed appends path with prefix before it, unless it is there.
func appendPrefixed(out, path []byte, prefix string) []byte {
	if !hasPrefix(path, prefix) || len(path) > len(prefix) && !bytes.ContainsRune([]byte("/?#"), rune(path[len(prefix)])) {
		out = append(out, prefix...)
		if len(path) == 0 || path[0] != '/' {
			out = append(out, '/')
		}
	}
	return append(out, path...)
}

// appendCookie appends a Set-Cookie value that is confined to prefix: its Path
// is below it, and its Domain, which would show it to other hosts, is gone.
func appendCookie(out, cookie []byte, prefix string) []byte {
	pair, rest, more := bytes.Cut(cookie, []byte(";"))
	out = append(out, pair...)
	for more {
		var attr []byte
		attr, rest, more = bytes.Cut(rest, []byte(";"))
		name, value, _ := bytes.Cut(attr, []byte("="))
		switch name = bytes.TrimSpace(name); {
		case http1.EqualFold(name, "domain"):
		case http1.EqualFold(name, "path"):
			value = bytes.TrimSpace(value)
			if len(value) == 0 || value[0] != '/' {
				continue // browsers then use the path of the request, which is below prefix
			}
			out = append(out, "; Path="...)
			out = appendPrefixed(out, value, prefix)
		default:
			out = append(out, ';')
			out = append(out, attr...)
		}
	}
	return out
}
