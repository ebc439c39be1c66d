//go:build race

package udpsocket

const raceEnabled = true
