//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package screen

import (
	"errors"
	"os"
)

type terminal struct{}

func openTerminal(*os.File) (*terminal, error) { return nil, errors.ErrUnsupported }

func (*terminal) quiet()                 {}
func (*terminal) restore()               {}
func (*terminal) foreground() bool       { return false }
func (*terminal) size() (cols, rows int) { return 80, 24 }

func notify(resized, continued chan os.Signal) {}

// Columns returns how wide the terminal is, as far as that is known here.
func Columns(*os.File) int { return 80 }
