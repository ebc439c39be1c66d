package wsmux

import "encoding/binary"

// SetNextID sets the number of the next stream that the session opens.
func (s *Session) SetNextID(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextID = id
}

// AppendFrame appends a frame, which is the payload of one message.
func AppendFrame(b []byte, t Type, stream uint32, payload []byte) []byte {
	b = append(b, byte(t))
	b = binary.LittleEndian.AppendUint32(b, stream)
	return append(b, payload...)
}
