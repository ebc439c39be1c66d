package forest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	controlPath = "/_controlPath"

	helloWord = "controlHandshake" // the agent's first bytes on the control stream
	okWord    = "controlOk"        // the server's

	connected = "Connected to Tunnel" // the reason phrase that the original agent insists on

	// handshakeTime bounds each step of becoming a session. The original server
	// waits as long for the control stream.
	handshakeTime = 10 * time.Second

	// answerTime is how long a visitor waits for the agent's stream, as in the
	// original.
	answerTime = 10 * time.Second

	maxMessage = 64 << 10 // bytes of one control message
	maxID      = 255      // bytes of an identifier
)

// Headers by which an agent says who it is. The original had three, one after
// the other, and then none: the name in the certificate.
const (
	headerPorts    = "X-Ktunnel-Identifier"   // until 2020-08: messages with port numbers
	headerServices = "X-Threshold-Identifier" // messages with services
	headerClientID = "X-Threshold-Clientid"   // and the name in the certificate is checked
)

// headerFeatures lists what a side can do beyond the original. Originals ignore
// it, so it is in use only where both sides send it.
const headerFeatures = "Adit-Forest"

// features are what both sides of a session can do.
type features struct {
	// halfClose: FIN ends one direction of a stream, and RST ends both with an
	// error. To originals FIN ends both.
	halfClose bool

	// answer: the agent's first byte on a stream tells whether there is an
	// upstream.
	answer bool
}

var ourFeatures = features{halfClose: true, answer: true}

func (f features) String() string {
	var all []string
	if f.halfClose {
		all = append(all, "half-close")
	}
	if f.answer {
		all = append(all, "answer")
	}
	return strings.Join(all, ", ")
}

func (f features) and(g features) features {
	return features{halfClose: f.halfClose && g.halfClose, answer: f.answer && g.answer}
}

func parseFeatures(values []string) (f features) {
	for _, v := range values {
		for word := range strings.SplitSeq(v, ",") {
			switch strings.ToLower(strings.TrimSpace(word)) {
			case "half-close":
				f.halfClose = true
			case "answer":
				f.answer = true
			}
		}
	}
	return f
}

// answerOpen is the first byte on a stream that has an upstream, see
// features.answer. Any other is a tunnel.RefuseCode, and text follows.
const answerOpen = 0

const maxReason = 256 // bytes of that text

// A claim is what an agent's CONNECT request says of it.
type claim struct {
	id       string
	header   string // that had the ID; empty if there was none
	features features
}

// numbered reports whether the agent takes port numbers for services.
func (c claim) numbered() bool { return c.header == headerPorts }

func claimOf(h http.Header) claim {
	c := claim{features: parseFeatures(h.Values(headerFeatures))}
	for _, name := range []string{headerClientID, headerServices, headerPorts} {
		if v, ok := h[name]; ok && len(v) > 0 {
			c.id, c.header = v[0], name
			break
		}
	}
	return c
}

// A message asks an agent for one stream.
type message struct {
	Action            int    `json:"action"`
	TransportProtocol int    `json:"transportProtocol,omitempty"`
	LocalPort         int    `json:"localPort,omitempty"`
	Service           string `json:"service"`
}

const (
	actionOpen   = 1
	transportTCP = 2
)

// appendMessage appends the line that asks for a stream to service, in the form
// that the agent knows.
func appendMessage(b []byte, service string, numbered bool) ([]byte, error) {
	if numbered {
		port, err := strconv.ParseUint(service, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("service %q: the agent knows port numbers alone", service)
		}
		return fmt.Appendf(b, `{"action":%d,"transportProtocol":%d,"localPort":%d}`+"\n", actionOpen, transportTCP, port), nil
	}
	name, err := json.Marshal(service)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(b, `{"action":%d,"service":%s}`+"\n", actionOpen, name), nil
}

// A messageReader reads what is on a control stream after the handshake.
type messageReader struct {
	limit *io.LimitedReader
	dec   *json.Decoder
}

func newMessageReader(r io.Reader) *messageReader {
	limit := &io.LimitedReader{R: r}
	return &messageReader{limit, json.NewDecoder(limit)}
}

// next returns the next message. What is no object, has a wrong type or is
// longer than maxMessage is an error.
func (r *messageReader) next() (m message, err error) {
	r.limit.N = maxMessage
	if err := r.dec.Decode(&m); err != nil {
		if r.limit.N <= 0 {
			return m, fmt.Errorf("a control message is longer than %d bytes", maxMessage)
		}
		return m, err
	}
	return m, nil
}

// readWord reads the word of a handshake, which is in one frame.
func readWord(r io.Reader, want string) error {
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if string(got) != want {
		return fmt.Errorf("handshake: got %q, want %q", got, want)
	}
	return nil
}

// validID reports whether an identifier can be one.
func validID(id string) bool {
	return id != "" && len(id) <= maxID && !slices.ContainsFunc([]byte(id), func(c byte) bool { return c <= ' ' || c == 0x7f })
}
