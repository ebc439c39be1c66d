package wsmux

// SetNextID sets the number of the next stream that the session opens.
func (s *Session) SetNextID(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextID = id
}
