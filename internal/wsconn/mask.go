package wsconn

import "adit/internal/wsframe"

// xor is wsframe.Mask.
func xor(dst, src []byte, key uint32) uint32 { return wsframe.Mask(dst, src, key) }
