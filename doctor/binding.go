package doctor

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
)

// bindingOf returns what both ends of one TLS conn agree on, and no two others
// do (RFC 9266 does the same with another label): if server and agent have
// different ones, somebody between has opened TLS and begun another. It is empty
// if the conn has no such thing.
func bindingOf(state *tls.ConnectionState) string {
	if state == nil {
		return ""
	}
	key, err := state.ExportKeyingMaterial("EXPORTER-adit-doctor", nil, 32)
	if err != nil {
		return "" // TLS 1.2 without extended master secret
	}
	sum := sha256.Sum256(key) // the key itself is nobody's business
	return hex.EncodeToString(sum[:16])
}
