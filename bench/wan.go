package main

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The emulated link. Two network namespaces, one TUN device in each, and this
// process carries the packets from one to the other: after half the round-trip
// time, losing some at random, through a queue of limited length (and, with
// rate, at limited speed). It works where the kernel has no netem; loss acts on
// real TCP of the kernel. The visitors sit beside the server, the backend beside
// the client.
const (
	wanServerIP = "10.77.0.1"
	wanClientIP = "10.77.0.2"
	wanQueue    = 16384 // packets on the way in one direction, about 24 MB
	wanEnv      = "TUNNELBENCH_NS_CLIENT"
)

func wanNSClient() string { return os.Getenv(wanEnv) }

type wanSpec struct {
	rtt  time.Duration
	loss float64
	rate float64 // bytes per second, 0: no limit
	cc   string  // TCP congestion control in both namespaces, empty: as it is
}

// parseWan reads 40ms or 40ms,0.5% or 40ms,0.5%,100mbit,bbr.
func parseWan(s string) (w wanSpec, err error) {
	for _, p := range strings.Split(s, ",") {
		p = strings.TrimSpace(p)
		switch {
		case strings.HasSuffix(p, "%"):
			w.loss, err = strconv.ParseFloat(strings.TrimSuffix(p, "%"), 64)
			w.loss /= 100
		case strings.HasSuffix(p, "mbit"):
			w.rate, err = strconv.ParseFloat(strings.TrimSuffix(p, "mbit"), 64)
			w.rate *= 1e6 / 8
		case p == "bbr" || p == "cubic" || p == "reno":
			w.cc = p
		case p == "":
			err = errors.New("an empty part; want RTT[,LOSS%][,RATEmbit][,bbr|cubic|reno], such as 40ms,0.5%")
		default:
			w.rtt, err = time.ParseDuration(p)
		}
		if err != nil {
			return w, fmt.Errorf("-wan %q: %w", s, err)
		}
	}
	if w.rtt < 0 || w.loss < 0 || w.loss >= 1 || w.rate < 0 {
		return w, fmt.Errorf("-wan %q: want RTT and RATE of at least 0, LOSS from 0 to under 100%%", s)
	}
	return w, nil
}

// wanMade lists the namespaces to remove at the end.
var wanMade struct {
	sync.Mutex
	ns []string
}

// wanDown removes the namespaces, and with them the devices.
func wanDown() {
	wanMade.Lock()
	defer wanMade.Unlock()
	for _, n := range wanMade.ns {
		exec.Command("ip", "netns", "del", n).Run()
	}
	wanMade.ns = nil
}

// wanRun makes the link and runs this program again inside the namespace of
// the visitors.
func wanRun(cmd, spec string, args []string) int {
	w, err := parseWan(spec)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer wanDown()
	tag := strconv.Itoa(os.Getpid())
	nsA, nsB := "tbs"+tag, "tbc"+tag
	var fds [2]*os.File
	for i, ns := range []string{nsA, nsB} {
		if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "no network namespaces here: %v %s\n", err, out)
			return 2
		}
		wanMade.Lock()
		wanMade.ns = append(wanMade.ns, ns)
		wanMade.Unlock()
		if fds[i], err = openTun(ns, "tb0"); err != nil {
			fmt.Fprintln(os.Stderr, "tun:", err)
			return 2
		}
		if w.cc != "" {
			if out, err := exec.Command("ip", "netns", "exec", ns, "sysctl", "-q", "-w", "net.ipv4.tcp_congestion_control="+w.cc).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "congestion control %s is not to be had here: %s\n", w.cc, out)
				return 2
			}
		}
		ip, peer := wanServerIP, wanClientIP
		if i == 1 {
			ip, peer = peer, ip
		}
		for _, l := range []string{"link set lo up", "addr add " + ip + " peer " + peer + " dev tb0", "link set tb0 mtu 1500 txqueuelen 10000 up"} {
			a := append([]string{"-n", ns}, strings.Fields(l)...)
			if out, err := exec.Command("ip", a...).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "ip %v: %v %s\n", a, err, out)
				return 2
			}
		}
	}
	l := link{spec: w}
	l.start(fds[0], fds[1])
	defer l.stop()
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	c := exec.Command("ip", slices.Concat([]string{"netns", "exec", nsA, self, cmd}, args, []string{"-in-ns"})...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.Env = append(os.Environ(), wanEnv+"="+nsB)
	p, err := watch("harness inside the namespace", c, "")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	<-p.exited
	live.remove(p)
	fmt.Fprintf(os.Stderr, "link %s: %d packets carried, %d lost at random, %d dropped by the full queue\n", spec, l.sent.Load(), l.lost.Load(), l.over.Load())
	return c.ProcessState.ExitCode()
}

// openTun makes the TUN device name inside the network namespace ns.
func openTun(ns, name string) (*os.File, error) {
	type res struct {
		f   *os.File
		err error
	}
	ch := make(chan res)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		h, err := os.Open("/run/netns/" + ns)
		if err != nil {
			ch <- res{nil, err}
			return
		}
		defer h.Close()
		if err := unix.Setns(int(h.Fd()), unix.CLONE_NEWNET); err != nil {
			ch <- res{nil, err}
			return
		}
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			ch <- res{nil, err}
			return
		}
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			unix.Close(fd)
			ch <- res{nil, err}
			return
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			unix.Close(fd)
			ch <- res{nil, err}
			return
		}
		if err := unix.SetNonblock(fd, true); err != nil { // lets Close end a Read
			unix.Close(fd)
			ch <- res{nil, err}
			return
		}
		ch <- res{os.NewFile(uintptr(fd), "tun"), nil}
	}()
	r := <-ch
	return r.f, r.err
}

type packet struct {
	due time.Time
	n   int
	b   [1600]byte
}

// A link carries packets between two TUN devices.
type link struct {
	spec             wanSpec
	ends             [2]*os.File
	sent, lost, over atomic.Int64
	wg               sync.WaitGroup
}

// start takes over both devices.
func (l *link) start(a, b *os.File) {
	l.ends = [2]*os.File{a, b}
	l.wg.Go(func() { l.carry(a, b) })
	l.wg.Go(func() { l.carry(b, a) })
}

// stop closes the devices and waits until nothing is carried any more.
func (l *link) stop() {
	for _, f := range l.ends {
		f.Close() // unblocks carry
	}
	l.wg.Wait()
}

// carry moves packets one way until its device is closed.
func (l *link) carry(from, to *os.File) {
	queue := make(chan *packet, wanQueue)
	pool := sync.Pool{New: func() any { return new(packet) }}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(queue)
	wg.Go(func() {
		for p := range queue {
			if d := time.Until(p.due); d > 50*time.Microsecond {
				time.Sleep(d)
			}
			if _, err := to.Write(p.b[:p.n]); err == nil { // as on a real line, nobody is told of a lost packet
				l.sent.Add(1)
			}
			pool.Put(p)
		}
	})
	rnd := rand.New(rand.NewSource(42))
	var free time.Time // when the (rate-limited) line is free again
	for {
		p := pool.Get().(*packet)
		n, err := from.Read(p.b[:])
		if err != nil {
			return
		}
		if l.spec.loss > 0 && rnd.Float64() < l.spec.loss {
			l.lost.Add(1)
			pool.Put(p)
			continue
		}
		at := time.Now()
		if l.spec.rate > 0 {
			if free.Before(at) {
				free = at
			}
			free = free.Add(time.Duration(float64(n) / l.spec.rate * 1e9))
			at = free
		}
		p.due, p.n = at.Add(l.spec.rtt/2), n
		select {
		case queue <- p:
		default:
			l.over.Add(1)
			pool.Put(p)
		}
	}
}
