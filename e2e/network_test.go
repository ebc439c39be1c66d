package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A network is two hosts joined by a cable, made of network namespaces.
type network struct {
	ip           string // the program
	public, home string // the namespaces, as ip netns knows them
}

const (
	publicIP = "10.78.0.1"
	homeIP   = "10.78.0.2"
	movedIP  = "10.78.0.3" // of home, after it moved
)

var networks atomic.Int32

func newNetwork(t *testing.T) *network {
	t.Helper()
	needRoot(t)
	name := fmt.Sprintf("adit%d-%d", os.Getpid(), networks.Add(1))
	n := &network{ip: need(t, "ip"), public: name + "p", home: name + "h"}
	for _, ns := range []string{n.public, n.home} {
		if _, err := try(t.Context(), 10*time.Second, n.ip, "netns", "add", ns); err != nil {
			missing(t, "network namespaces: "+err.Error())
		}
		t.Cleanup(func() { exec.Command(n.ip, "netns", "del", ns).Run() })
	}
	for _, line := range []string{
		"-n " + n.public + " link add cable type veth peer name cable netns " + n.home,
		"-n " + n.public + " addr add " + publicIP + "/29 dev cable",
		"-n " + n.home + " addr add " + homeIP + "/29 dev cable",
		"-n " + n.public + " link set lo up",
		"-n " + n.home + " link set lo up",
		"-n " + n.public + " link set cable up",
		"-n " + n.home + " link set cable up",
	} {
		run(t, 10*time.Second, n.ip, strings.Fields(line)...)
	}
	return n
}

// in is the command prefix that runs a program on a host.
func (n *network) in(host string) []string { return []string{n.ip, "netns", "exec", host} }

// cable plugs the home's end in ("up") or pulls it out ("down").
func (n *network) cable(t *testing.T, state string) {
	t.Helper()
	run(t, 10*time.Second, n.ip, "-n", n.home, "link", "set", "cable", state)
}

func TestSSHSessionGoesOnAfterNetworkOfAgentWasGone(t *testing.T) {
	t.Parallel()
	sshOverOutage(t, false)
}

// With another address, nothing that comes for the old carrier arrives any
// more, and nobody tells either side.
func TestSSHSessionGoesOnAfterAgentMovedToAnotherAddress(t *testing.T) {
	t.Parallel()
	sshOverOutage(t, true)
}

// sshOverOutage pulls the agent's cable out in the middle of an ssh session,
// which must lose nothing by it.
func sshOverOutage(t *testing.T, moves bool) {
	gone := 5 * time.Second
	if long() {
		gone = 30 * time.Second
	}
	n := newNetwork(t)
	d := startSSHD(t, "127.0.0.1", n.in(n.home)...)
	port := freePort(t)
	s := startServerAt(t, publicIP, n.in(n.public), "--tcp-ports", port)
	s.agentVia(t, s.addr, n.in(n.home), "tcp", net.JoinHostPort("127.0.0.1", d.port), "--id", "raw", "--port", port)
	login := d.login(t, publicIP, port, n.in(n.public)...)
	waitLogin(t, login)

	const lines = 100 // 10 a second
	ctx, cancel := context.WithTimeout(t.Context(), gone+time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, login[0], append(login[1:], fmt.Sprintf("for i in $(seq %d); do echo $i; sleep 0.1; done", lines))...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	session := bufio.NewScanner(out)
	got := 0
	readTo := func(last int) {
		for got < last && session.Scan() {
			got++
			if session.Text() != strconv.Itoa(got) {
				t.Errorf("line %d: got %q", got, session.Text())
			}
		}
	}
	readTo(10)
	n.cable(t, "down")
	select {
	case <-time.After(gone):
	case <-ctx.Done():
	}
	if moves {
		run(t, 10*time.Second, n.ip, "-n", n.home, "addr", "del", homeIP+"/29", "dev", "cable")
		run(t, 10*time.Second, n.ip, "-n", n.home, "addr", "add", movedIP+"/29", "dev", "cable")
	}
	n.cable(t, "up")
	back := time.Now()
	readTo(20) // the first ones may have been on the way already
	t.Logf("the session went on %s after the network was back", time.Since(back).Round(time.Millisecond))
	readTo(lines)
	if session.Scan() {
		t.Errorf("got %q after the last line", session.Text())
	}
	if got != lines {
		t.Errorf("got %d lines, want %d", got, lines)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("ssh: %v", err)
	}
}
