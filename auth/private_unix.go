//go:build unix

package auth

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkPrivate refuses a file that others than the user may read or write. A
// file that root lets the process's group read is private too: that is how a
// Kubernetes secret reaches a process that is not root.
func checkPrivate(info fs.FileInfo, path string) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && os.Geteuid() != 0 && st.Uid == 0 && int(st.Gid) == os.Getegid() && info.Mode().Perm()&0o037 == 0 {
		return nil
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("has mode %#o, which lets others read or change it: run chmod 600 %s, and make a new secret if somebody may have read it", perm, path)
	}
	return checkOwner(info, path)
}

// checkUnwritable refuses a file that others than the user and root may write.
func checkUnwritable(info fs.FileInfo, path string) error {
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("has mode %#o, which lets others change it: run chmod go-w %s", perm, path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid == 0 {
		return nil
	}
	return checkOwner(info, path)
}

func checkOwner(info fs.FileInfo, path string) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if uid := os.Geteuid(); ok && int(st.Uid) != uid {
		return fmt.Errorf("belongs to user %d, but adit runs as user %d: run it as that user (sudo -u '#%d' adit …), or run chown %d %s", st.Uid, uid, st.Uid, uid, path)
	}
	return nil
}

// checkDir refuses a directory in which others may replace files.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return cause(err)
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("has mode %#o, which lets others change it: run chmod 700 %s", perm, dir)
	}
	return checkOwner(info, dir)
}

// syncDir makes a new name in dir survive a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
