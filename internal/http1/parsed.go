package http1

// A Parsed is a request whose head somebody else has parsed, such as one of
// HTTP/2.
type Parsed struct {
	Method, Target string
	Host           string              // Host, or ":authority"
	Fields         map[string][]string // by canonical name
}

// Check holds p to the rules of Request.Parse, as far as they go for what is
// not of one connection: the request can be sent on in HTTP/1.1, and is the
// same to all who read it (RFC 9113, section 10.3). The error is an *Error.
func (p Parsed) Check(limits Limits) error {
	limits = limits.withDefaults()
	host := []byte(p.Host)
	switch {
	case !all([]byte(p.Method), isToken) || p.Method == "":
		return ErrMethod
	case p.Method == "CONNECT":
		return ErrConnect
	case len(p.Target) > limits.Target:
		return ErrTargetTooLong
	case p.Target == "*" && p.Method == "OPTIONS":
	case p.Target == "" || p.Target[0] != '/' || !limits.allowTarget([]byte(p.Target)):
		return ErrTarget
	}
	if err := checkPath([]byte(p.Target)); err != nil {
		return err
	}
	if len(host) > 0 {
		if _, _, ok := SplitHost(host); !ok {
			return ErrHost
		}
	}
	for _, h := range p.Fields["Host"] {
		if !equalFoldBytes([]byte(h), host) {
			return ErrHostDisagrees
		}
	}
	switch lengths := p.Fields["Content-Length"]; len(lengths) {
	case 0:
	case 1:
		if _, ok := parseLength([]byte(lengths[0])); !ok {
			return ErrLength
		}
	default:
		return ErrManyLengths
	}
	fields := 0
	for name, values := range p.Fields {
		if fields += len(values); fields > limits.Fields {
			return ErrTooManyFields
		}
		if name == "" || !all([]byte(name), isToken) {
			return ErrFieldName
		}
		for _, v := range values {
			if !all([]byte(v), isValue) {
				return ErrFieldValue
			}
		}
	}
	return nil
}
