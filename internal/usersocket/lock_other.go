//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package usersocket

func lockFolder(string) (unlock func()) { return func() {} }
