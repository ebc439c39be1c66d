//go:build unix

package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// checkOwned refuses a file that somebody else than root and the user of this
// process may change or replace.
func checkOwned(path string, info fs.FileInfo) error {
	if err := checkOwner(path, info); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return cause(err)
	}
	if real, err = filepath.Abs(real); err != nil {
		return err
	}
	for dir := filepath.Dir(real); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("its folder %s: %w", dir, cause(err))
		}
		// In a sticky folder nobody can replace what belongs to others.
		if perm := info.Mode().Perm(); perm&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("everybody may replace it, since the folder %s has mode %#o: run chmod o-w %s", dir, perm, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func checkOwner(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	uid := os.Geteuid()
	if int(st.Uid) != uid && st.Uid != 0 {
		return fmt.Errorf("it belongs to user %d, who may change it, but adit runs as user %d: run chown %d %s", st.Uid, uid, uid, path)
	}
	// A group of one's own, as many systems make one for each user, lets
	// nobody else in.
	perm := info.Mode().Perm()
	ownGroup := st.Uid == uint32(uid) && st.Gid == st.Uid
	if perm&0o002 != 0 || perm&0o020 != 0 && !ownGroup {
		return fmt.Errorf("it has mode %#o, which lets others change it: run chmod go-w %s", perm, path)
	}
	return nil
}

// exposed says why others can read the file, and what to do about it. It is
// empty if they cannot. A file of root's may let a service's group read it.
func exposed(path string, info fs.FileInfo) string {
	perm := info.Mode().Perm()
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || perm&0o044 == 0 {
		return ""
	}
	ownGroup := st.Gid == st.Uid || st.Uid == 0 && int(st.Gid) == os.Getegid()
	if perm&0o004 == 0 && ownGroup {
		return ""
	}
	return fmt.Sprintf("others may read the file, which has mode %#o: run chmod 600 %s, and change the secret if somebody may have read it", perm, path)
}
