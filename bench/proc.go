package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const userHZ = 100 // clock ticks per second in /proc/PID/stat

// proc is one started command with every process that descends from it.
type proc struct {
	role    string // server or client
	cmd     *exec.Cmd
	pid     int
	logPath string
	exited  chan struct{}
	tooBig  atomic.Bool // ended by the harness for its memory
}

// startProc runs argv in dir with its output appended to the file logPath.
func startProc(role string, argv []string, env []string, dir, logPath string) (*proc, error) {
	if len(argv) == 0 {
		return nil, fmt.Errorf("no %s command", role)
	}
	c := exec.Command(argv[0], argv[1:]...)
	c.Dir = dir
	c.Env = append(os.Environ(), env...)
	f, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c.Stdout, c.Stderr = f, f
	return watch(role, c, logPath)
}

// watch starts c and keeps it among the live processes until it is stopped.
func watch(role string, c *exec.Cmd, logPath string) (*proc, error) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a signal from the terminal is ours to pass on
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start the %s: %w", role, err)
	}
	p := &proc{role: role, cmd: c, pid: c.Process.Pid, logPath: logPath, exited: make(chan struct{})}
	go func() { // ends with the process
		c.Wait()
		close(p.exited)
	}()
	live.add(p)
	return p, nil
}

func (p *proc) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// kill9 ends the whole tree at once, by pid.
func (p *proc) kill9() {
	for _, pid := range p.tree() {
		if pid > 1 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	select {
	case <-p.exited:
	case <-time.After(3 * time.Second):
	}
	live.remove(p)
}

// stop asks the process to end, and ends its tree if it does not within 1.5 s.
// A nil proc is no process.
func (p *proc) stop() {
	if p == nil {
		return
	}
	if p.alive() {
		pids := p.tree()
		syscall.Kill(p.pid, syscall.SIGTERM)
		select {
		case <-p.exited:
		case <-time.After(1500 * time.Millisecond):
		}
		for _, pid := range pids {
			if pid > 1 && pid != p.pid || p.alive() {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		select {
		case <-p.exited:
		case <-time.After(2 * time.Second):
		}
	}
	live.remove(p)
}

// watchMemory ends (and marks) a process under test that grows beyond max
// bytes, before it takes the machine with it. It returns when stop is closed.
func watchMemory(max int64, stop <-chan struct{}) {
	page := int64(os.Getpagesize())
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		for _, p := range live.all() {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.pid))
			if err != nil || !p.alive() {
				continue
			}
			f := strings.Fields(string(b))
			if len(f) < 2 {
				continue
			}
			n, _ := strconv.ParseInt(f[1], 10, 64)
			if n*page > max {
				logf("%s (pid %d) holds %d MB: ended by the harness", p.role, p.pid, n*page/1e6)
				p.tooBig.Store(true)
				syscall.Kill(p.pid, syscall.SIGKILL)
			}
		}
	}
}

// liveSet holds what has to be ended when the harness ends.
type liveSet struct {
	mu sync.Mutex
	m  map[*proc]bool
}

var live = &liveSet{m: map[*proc]bool{}}

func (l *liveSet) add(p *proc)    { l.mu.Lock(); l.m[p] = true; l.mu.Unlock() }
func (l *liveSet) remove(p *proc) { l.mu.Lock(); delete(l.m, p); l.mu.Unlock() }

func (l *liveSet) all() []*proc {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.m))
}

func (l *liveSet) killAll() {
	for _, p := range l.all() {
		for _, pid := range p.tree() {
			if pid > 1 {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// childrenMap maps each parent pid to its children, from one walk over /proc.
func childrenMap() map[int][]int {
	m := map[int][]int{}
	d, err := os.Open("/proc")
	if err != nil {
		return m
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		st, ok := readStat(pid)
		if ok {
			m[st.ppid] = append(m[st.ppid], pid)
		}
	}
	return m
}

func (p *proc) tree() []int { return p.treeIn(childrenMap()) }

func (p *proc) treeIn(kids map[int][]int) []int {
	var out []int
	seen := map[int]bool{}
	var walk func(pid int)
	walk = func(pid int) {
		if seen[pid] {
			return
		}
		seen[pid] = true
		out = append(out, pid)
		for _, k := range kids[pid] {
			walk(k)
		}
	}
	// Only the root is followed: a pid that was seen once may since belong to
	// somebody else.
	if p.alive() {
		walk(p.pid)
	}
	return out
}

type pstat struct {
	ppid                        int
	utime, stime, cutime, cstim uint64
}

func readStat(pid int) (pstat, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return pstat{}, false
	}
	return parseStat(b)
}

func parseStat(b []byte) (pstat, bool) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 || i+2 > len(b) {
		return pstat{}, false
	}
	f := bytes.Fields(b[i+2:])
	if len(f) < 15 {
		return pstat{}, false
	}
	u := func(k int) uint64 { v, _ := strconv.ParseUint(string(f[k]), 10, 64); return v }
	return pstat{ppid: int(u(1)), utime: u(11), stime: u(12), cutime: u(13), cstim: u(14)}, true
}

// usage of one tree: CPU seconds (own and of waited-for children), RSS now and
// its high-water mark, in bytes.
type usage struct {
	cpu      float64
	rss, hwm int64
	procs    int
}

func (p *proc) usageIn(kids map[int][]int) usage {
	var u usage
	for _, pid := range p.treeIn(kids) {
		st, ok := readStat(pid)
		if !ok {
			continue
		}
		u.procs++
		u.cpu += float64(st.utime+st.stime+st.cutime+st.cstim) / userHZ
		r, h := readRSS(pid)
		u.rss += r
		u.hwm += h
	}
	return u
}

func readRSS(pid int) (rss, hwm int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return
	}
	for _, l := range strings.Split(string(b), "\n") {
		kb := func() int64 {
			f := strings.Fields(l)
			if len(f) < 2 {
				return 0
			}
			v, _ := strconv.ParseInt(f[1], 10, 64)
			return v * 1024
		}
		if strings.HasPrefix(l, "VmRSS:") {
			rss = kb()
		} else if strings.HasPrefix(l, "VmHWM:") {
			hwm = kb()
		}
	}
	return
}

// pssIn is the memory of the tree with shared pages counted once (programs that
// fork share most of theirs).
func (p *proc) pssIn(kids map[int][]int) (pss int64) {
	for _, pid := range p.treeIn(kids) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for _, l := range strings.Split(string(b), "\n") {
			if f := strings.Fields(l); len(f) > 1 && f[0] == "Pss:" {
				v, _ := strconv.ParseInt(f[1], 10, 64)
				pss += v * 1024
			}
		}
	}
	return
}

// resetHWM lets the high-water mark of RSS start anew (works for one's own
// processes; where it does not, the mark simply covers the whole life).
func (p *proc) resetHWM(kids map[int][]int) {
	for _, pid := range p.treeIn(kids) {
		os.WriteFile(filepath.Join("/proc", strconv.Itoa(pid), "clear_refs"), []byte("5"), 0)
	}
}

func selfCPU() float64 {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return float64(r.Utime.Sec+r.Stime.Sec) + float64(r.Utime.Usec+r.Stime.Usec)/1e6
}

// loadAvg tells how busy the machine is with things that are not ours.
func loadAvg() string {
	b, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(b))
	if len(f) > 0 {
		return f[0]
	}
	return "?"
}
