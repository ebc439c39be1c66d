package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A process is a program that a test runs beside itself. It is killed, with
// the processes that it started, when the test ends.
type process struct {
	name string
	pid  int
	log  *output
	done chan struct{} // closed once the process has ended
}

// start runs c and captures what it prints, which is shown if the test fails.
func start(t *testing.T, name string, c *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, log: &output{changed: make(chan struct{})}, done: make(chan struct{})}
	c.Stdout, c.Stderr = p.log, p.log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.WaitDelay = 5 * time.Second // for children that keep the output open
	if err := c.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	p.pid = c.Process.Pid
	go func() { // ends with the process, which the cleanup kills
		c.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, p.log.tail(4<<10))
		}
	})
	return p
}

// kill ends the process and its group at once and waits until it is gone.
func (p *process) kill() {
	select {
	case <-p.done:
		return
	default:
	}
	syscall.Kill(-p.pid, syscall.SIGKILL)
	<-p.done
}

// waitLog waits until find returns true for what the process has printed.
func (p *process) waitLog(t *testing.T, what string, limit time.Duration, find func(log string) bool) {
	t.Helper()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		text, changed := p.log.read()
		if find(text) {
			return
		}
		select {
		case <-changed:
		case <-p.done:
			if text, _ := p.log.read(); !find(text) {
				t.Fatalf("%s ended without %s", p.name, what)
			}
			return
		case <-timeout.C:
			t.Fatalf("%s: no %s within %s", p.name, what, limit)
		}
	}
}

// memory returns the resident memory of the process and its high-water mark, in
// bytes.
func (p *process) memory(t *testing.T) (now, peak int64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		t.Fatalf("memory of %s: %v", p.name, err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			now = kb << 10
		case "VmHWM:":
			peak = kb << 10
		}
	}
	if now == 0 || peak == 0 {
		t.Fatalf("no memory figures for %s", p.name)
	}
	return now, peak
}

// output keeps the last MiB that a process printed.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{} // closed and replaced at each write
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if extra := o.buf.Len() - 1<<20; extra > 0 {
		o.buf.Next(extra)
	}
	close(o.changed)
	o.changed = make(chan struct{})
	return len(p), nil
}

// read returns what is kept, and a channel that is closed at the next write.
func (o *output) read() (text string, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String(), o.changed
}

func (o *output) tail(n int) string {
	text, _ := o.read()
	return text[max(0, len(text)-n):]
}
