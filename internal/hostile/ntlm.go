package hostile

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"unicode/utf16"

	//lint:ignore SA1019 NTLM has no other
	"golang.org/x/crypto/md4"
)

// NTLM returns a way to log in with NTLM in version 2 (MS-NLMP): two requests
// on one connection. scheme is what it is called, NTLM or Negotiate; others are
// offered beside it and never accepted.
func NTLM(scheme, domain, user, password string, others ...string) func() Login {
	return func() Login {
		var challenge []byte
		return func(got string) (bool, []string) {
			name, text, _ := strings.Cut(got, " ")
			message, err := base64.StdEncoding.DecodeString(text)
			offers := append([]string{scheme}, others...)
			switch {
			case name != scheme || err != nil || len(message) < 12 || !bytes.HasPrefix(message, []byte(ntlmSignature)):
				challenge = nil
				return false, offers
			case message[8] == 1:
				challenge = make([]byte, 8)
				rand.Read(challenge)
				return false, []string{scheme + " " + base64.StdEncoding.EncodeToString(challengeMessage(challenge))}
			case message[8] == 3 && challenge != nil:
				ok := ntlmAnswers(message, challenge, domain, user, password)
				challenge = nil
				return ok, offers
			}
			return false, offers
		}
	}
}

const ntlmSignature = "NTLMSSP\x00"

// challengeMessage is a CHALLENGE_MESSAGE (section 2.2.1.2).
func challengeMessage(challenge []byte) []byte {
	const (
		head  = 56
		flags = 0x1 | 0x4 | 0x200 | 0x8000 | 0x80000 | 0x800000 // Unicode, target, NTLM, always sign, extended, target info
	)
	target := utf16le("CORP")
	info := binary.LittleEndian.AppendUint16(nil, 2) // MsvAvNbDomainName
	info = binary.LittleEndian.AppendUint16(info, uint16(len(target)))
	info = append(append(info, target...), 0, 0, 0, 0) // MsvAvEOL
	b := append([]byte(ntlmSignature), 2, 0, 0, 0)
	field := func(n, at int) {
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
		b = binary.LittleEndian.AppendUint32(b, uint32(at))
	}
	field(len(target), head)
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = append(append(b, challenge...), make([]byte, 8)...)
	field(len(info), head+len(target))
	b = append(b, make([]byte, 8)...) // version
	return append(append(b, target...), info...)
}

// ntlmAnswers verifies an AUTHENTICATE_MESSAGE (sections 2.2.1.3 and 3.3.2).
func ntlmAnswers(m, challenge []byte, domain, user, password string) bool {
	field := func(at int) []byte {
		if len(m) < at+8 {
			return nil
		}
		n, from := int(binary.LittleEndian.Uint16(m[at:])), int(binary.LittleEndian.Uint32(m[at+4:]))
		if from > len(m) || n > len(m)-from {
			return nil
		}
		return m[from : from+n]
	}
	response, gotDomain, gotUser := field(20), field(28), field(36)
	if len(response) < 16+28 || !bytes.Equal(gotDomain, utf16le(domain)) || !bytes.Equal(gotUser, utf16le(user)) {
		return false
	}
	hash := md4.New()
	hash.Write(utf16le(password))
	key := hmacMD5(hash.Sum(nil), utf16le(strings.ToUpper(user)+domain))
	return hmac.Equal(response[:16], hmacMD5(key, append(bytes.Clone(challenge), response[16:]...)))
}

func hmacMD5(key, message []byte) []byte {
	h := hmac.New(md5.New, key)
	h.Write(message)
	return h.Sum(nil)
}

func utf16le(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
