// Package trywrite writes to a socket: as much as it takes at once, for whoever
// must not wait for the other end, or all.
//
//	var w trywrite.Writer
//	if w.Init(conn) {
//		n, err := w.Write(b) // n < len(b) if the socket is full
//	}
package trywrite
