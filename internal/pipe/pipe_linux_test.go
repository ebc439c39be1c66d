package pipe_test

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
	"adit/internal/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestBounds takes more pipes than there are, puts some back and closes others.
func TestBounds(t *testing.T) {
	var taken []*pipe.Pipe
	for range pipe.Max + 1 {
		if p := pipe.Get(); p != nil {
			taken = append(taken, p)
		}
	}
	if len(taken) == 0 {
		t.Skip("no pipes to be had here")
	}
	if all, unused := pipe.Made(); len(taken) > pipe.Max || all != len(taken) || unused != 0 {
		t.Errorf("%d pipes taken, Made = %d, %d; want at most %d, all of them in use", len(taken), all, unused, pipe.Max)
	}
	for i, p := range taken {
		if i%2 == 0 {
			p.Put()
			continue
		}
		if n, err := nonblock.Write(p.W, []byte("left")); n != 4 {
			t.Errorf("Write: %d, %v", n, err)
		}
		p.Close()
	}
	all, unused := pipe.Made()
	if all != unused || unused > pipe.Kept {
		t.Errorf("Made = %d, %d; want at most %d, none in use", all, unused, pipe.Kept)
	}
	b := make([]byte, 4)
	for range unused {
		p := pipe.Get()
		if n, err := p.Read(b); err != unix.EAGAIN {
			t.Errorf("Read of a new pipe: %d, %v, want EAGAIN", n, err)
		}
		p.Close()
	}
}

const denied = "ADIT_TEST_SPLICE_DENIED"

// TestDenied runs a process that has pipes and no splice(2), which is to do
// without both.
func TestDenied(t *testing.T) {
	if os.Getenv(denied) != "" {
		if err := denySplice(); err != nil {
			os.Stdout.WriteString("cannot be tried: " + err.Error())
			return
		}
		if p := pipe.Get(); p != nil {
			t.Error("Get = a pipe, want nil")
		}
		if all, _ := pipe.Made(); all != 0 {
			t.Errorf("%d pipes are left, want none", all)
		}
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestDenied$")
	c.Env = append(os.Environ(), denied+"=1")
	out, err := c.CombinedOutput()
	if strings.HasPrefix(string(out), "cannot be tried") {
		t.Skip(string(out))
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// denySplice has splice(2) fail from now on, in the whole process.
func denySplice() error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SPLICE, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // both calls are about it, and the second takes the others along
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}
