package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

type opts struct {
	dur       time.Duration
	timeout   time.Duration
	bulkSize  int64
	upSize    int64
	stall     time.Duration
	n         int
	settle    time.Duration
	idleFor   time.Duration
	stormMax  time.Duration
	gapMax    time.Duration
	rate      int
	stalledSz int64
}

type cmdFlags map[string]string

func (c cmdFlags) String() string { return "" }

func (c cmdFlags) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("want ROLE=COMMAND or SUBJECT.ROLE=COMMAND")
	}
	c[k] = v
	return nil
}

type common struct {
	o       opts
	env     runEnv
	dir     string
	rounds  int
	maxRSS  int64
	overTCP bool
	keep    bool
	wan     string
	inNS    bool
}

func (c *common) flags(fs *flag.FlagSet) {
	o := &c.o
	fs.DurationVar(&o.dur, "dur", 2*time.Second, "length of one measured round")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Second, "limit for one small request")
	fs.Int64Var(&o.bulkSize, "bulk-size", 64<<20, "bytes of one HTTP download")
	fs.Int64Var(&o.upSize, "upload-size", 8<<20, "bytes of one HTTP upload")
	fs.Int64Var(&o.stalledSz, "stalled-size", 256<<20, "bytes of the download whose reader stalls")
	fs.DurationVar(&o.stall, "stall", 20*time.Second, "how long the stalled reader does not read")
	fs.IntVar(&o.n, "n", 0, "tunnels in idle and connect-storm (0: as the subject says, else 1000)")
	fs.DurationVar(&o.settle, "settle", 8*time.Second, "idle: wait before measuring")
	fs.DurationVar(&o.idleFor, "idle-for", 20*time.Second, "idle: length of the CPU measurement")
	fs.DurationVar(&o.stormMax, "storm-max", 60*time.Second, "connect-storm: give up after")
	fs.DurationVar(&o.gapMax, "gap-max", 30*time.Second, "reconnect: give up after")
	fs.IntVar(&o.rate, "rate", 200, "reconnect: requests per second")
	fs.BoolVar(&c.keep, "keep", false, "keep the subjects running from one variant to the next (default: start anew, so that leftovers of one load do not weigh on the next)")
	fs.BoolVar(&c.overTCP, "http-over-tcp", false, "run HTTP scenarios over the TCP subjects too")
	fs.Int64Var(&c.maxRSS, "max-rss", 6000, "MB; a process under test that grows beyond is ended and reported")
	fs.IntVar(&c.rounds, "rounds", 3, "rounds (interleaved over the subjects)")
	fs.StringVar(&c.dir, "subjects", defaultSubjects(), "folder of the subject files")
	fs.StringVar(&c.env.binDir, "bin", os.Getenv("PEERS_BIN"), "folder of the programs under test (default $PEERS_BIN)")
	fs.StringVar(&c.env.workRoot, "work", "", "scratch folder (default: a new one under the temporary folder)")
	fs.BoolVar(&c.env.keepLogs, "keep-logs", false, "keep the work folders with the logs")
	fs.StringVar(&c.wan, "wan", "", "emulated link between server and client, such as 40ms or 40ms,0.5% (root only)")
	fs.BoolVar(&c.inNS, "in-ns", false, "internal: already inside the namespace of the visitors")
	c.env.cmdFlags = map[string]string{}
	fs.Var(cmdFlags(c.env.cmdFlags), "cmd", "ROLE=COMMAND or SUBJECT.ROLE=COMMAND, for subject files that leave it open (repeatable)")
}

func (c *common) check() error {
	if c.rounds < 1 {
		return fmt.Errorf("-rounds %d: want at least 1", c.rounds)
	}
	if c.o.dur <= 0 {
		return fmt.Errorf("-dur %s: want more than 0", c.o.dur)
	}
	if c.o.rate < 1 {
		return fmt.Errorf("-rate %d: want at least 1", c.o.rate)
	}
	return nil
}

func defaultSubjects() string {
	if _, err := os.Stat("subjects"); err == nil {
		return "subjects"
	}
	self, _ := os.Executable()
	return filepath.Join(filepath.Dir(self), "subjects")
}

// up makes the scratch folder and starts the backend. The function that it
// returns ends the backend and removes the folder.
func (c *common) up() (down func(), err error) {
	made := c.env.workRoot == ""
	if made {
		if c.env.workRoot, err = os.MkdirTemp("", "tunnelbench-"); err != nil {
			return nil, err
		}
		if err := os.Chmod(c.env.workRoot, 0o755); err != nil { // programs that give up root read their files here
			return nil, err
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { watchMemory(c.maxRSS*1e6, stop) })
	down = func() {
		close(stop)
		wg.Wait()
		c.env.backendProc.stop()
		if made && !c.env.keepLogs {
			os.RemoveAll(c.env.workRoot)
		}
	}
	if err := c.startBackend(); err != nil {
		down()
		return nil, err
	}
	return down, nil
}

func (c *common) startBackend() error {
	c.env.serverHost, c.env.clientHost = "127.0.0.1", "127.0.0.1"
	bind := "127.0.0.1"
	if c.wan != "" {
		c.env.serverHost, c.env.clientHost = wanServerIP, wanClientIP
		c.env.nsClient = wanNSClient()
		bind = "0.0.0.0" // of the namespace
	}
	port, err := ports.get()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := []string{self, "backend", "-listen", fmt.Sprintf("%s:%d", bind, port)}
	if c.env.nsClient != "" {
		argv = append([]string{"ip", "netns", "exec", c.env.nsClient}, argv...)
	}
	c.env.backend = fmt.Sprintf("127.0.0.1:%d", port)
	c.env.backendFar = fmt.Sprintf("%s:%d", c.env.clientHost, port)
	c.env.backendProc, err = startProc("backend", argv, nil, c.env.workRoot, filepath.Join(c.env.workRoot, "backend.log"))
	if err != nil {
		return err
	}
	return waitAddr(c.env.backendFar, 5*time.Second, c.env.backendProc)
}

func (c *common) cond() string {
	if c.wan == "" {
		return "loopback"
	}
	return "wan " + c.wan
}

func raiseNoFile() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil && l.Cur < l.Max {
		l.Cur = l.Max
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
}
