package wsframe

import (
	"crypto/subtle"
	"encoding/binary"
	"math/bits"
)

// maskBlock is how much of a repeated key Mask prepares for long payloads.
const maskBlock = 512

// Mask sets dst to src masked with key (RFC 6455, section 5.3) and returns the
// key for the byte after src. The key's lowest byte is for the first byte. dst
// is as long as src and is either src itself or apart from it.
func Mask(dst, src []byte, key uint32) uint32 {
	next := bits.RotateLeft32(key, -8*(len(src)&3))
	wide := uint64(key)<<32 | uint64(key)
	if len(src) >= 2*maskBlock {
		var block [maskBlock]byte
		for i := 0; i < maskBlock; i += 8 {
			binary.LittleEndian.PutUint64(block[i:], wide)
		}
		for len(src) >= maskBlock {
			subtle.XORBytes(dst[:maskBlock], src[:maskBlock], block[:])
			dst, src = dst[maskBlock:], src[maskBlock:]
		}
	}
	dst = dst[:len(src)]
	for len(src) >= 8 {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(src)^wide)
		dst, src = dst[8:], src[8:]
	}
	for i, b := range src {
		dst[i] = b ^ byte(key>>(8*i&31))
	}
	return next
}
