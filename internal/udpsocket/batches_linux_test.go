package udpsocket

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
)

// A run that the system has not cut is cut where its datagrams end.
func TestRunsStayTogether(t *testing.T) {
	t.Parallel()
	far := listen(t, "udp", "127.0.0.1:0")
	s, c := New(far, Options{}), New(dial(t, far.LocalAddr()), Options{})
	if s.many == nil || c.many.segment.Load() == 0 {
		t.Skip("this kernel moves them one by one")
	}
	for _, sizes := range [][]int{{1400, 1400, 1400}, {1400, 1400, 7}, {1, 1, 1, 1}, {1400, 1, 1400}} {
		var list [][]byte
		for i, n := range sizes {
			list = append(list, filled(i, n))
		}
		if done, err := c.Send(Envelope{}, list); err != nil || done.Sent != len(list) {
			t.Fatalf("Send = %+v, %v; want %d", done, err, len(list))
		}
		got, longest := receive(t, s, len(list))
		for i, l := range got {
			if !bytes.Equal(l.b, list[i]) {
				t.Errorf("%v: datagram %d has %d bytes, want %d", sizes, i, len(l.b), len(list[i]))
			}
		}
		if longest < 2 {
			t.Errorf("%v: each came alone", sizes)
		}
	}
}

// A step is what the system answers to one call.
type step struct {
	take int // messages
	err  error
}

// Send and TrySend go on behind what the system has taken, whatever it says.
func TestWhatTheSystemAnswers(t *testing.T) {
	t.Parallel()
	same, mixed := []int{5, 5, 5, 5}, []int{1, 2, 3, 4}
	for _, tt := range []struct {
		name    string
		sizes   []int
		try     bool
		steps   []step // and then it takes all
		want    Sent
		sent    string // sizes of what it took
		segment int32  // 0 is as before
	}{
		{"all at once", same, false, nil, Sent{Sent: 4}, "[20]", 0},
		{"some", mixed, false, []step{{2, nil}, {1, nil}}, Sent{Sent: 4}, "[1 2 3 4]", 0},
		{"full", mixed, true, []step{{2, nil}, {0, unix.EAGAIN}}, Sent{Sent: 2}, "[1 2]", 0},
		{"full at once", same, true, []step{{0, unix.EAGAIN}}, Sent{}, "[]", 0},
		{"full for a moment", mixed, false, []step{{1, nil}, {0, unix.EAGAIN}}, Sent{Sent: 4}, "[1 2 3 4]", 0},
		{"refused before", mixed, false, []step{{0, unix.ECONNREFUSED}, {1, nil}, {0, unix.ECONNREFUSED}}, Sent{Sent: 4}, "[1 2 3 4]", 0},
		{"refused again and again", mixed, false, []step{{0, unix.ECONNREFUSED}, {0, unix.ECONNREFUSED}, {0, unix.ECONNREFUSED}, {0, unix.ECONNREFUSED}},
			Sent{Sent: 3, Lost: 1}, "[2 3 4]", 0},
		{"one is not allowed", mixed, false, []step{{2, nil}, {0, unix.EPERM}}, Sent{Sent: 3, Lost: 1}, "[1 2 4]", 0},
		{"no memory", same, false, []step{{0, unix.ENOBUFS}}, Sent{Lost: 4}, "[]", 0},
		{"a card that cannot cut", same, false, []step{{0, unix.EIO}}, Sent{Sent: 4}, "[5 5 5 5]", -1},
		{"longer than the path", same, false, []step{{0, unix.EMSGSIZE}, {0, unix.EMSGSIZE}}, Sent{Sent: 4}, "[5 5 5 5]", 5},
		{"longer than the path, of older kernels", same, false, []step{{0, unix.EINVAL}, {0, unix.EMSGSIZE}, {0, unix.EMSGSIZE}}, Sent{Sent: 3, Lost: 1}, "[5 5 5]", 5},
		{"one before was longer than the path", same, false, []step{{0, unix.EMSGSIZE}}, Sent{Sent: 4}, "[20]", 0},
		{"a router refused before", mixed, false, []step{{1, nil}, {0, unix.EHOSTUNREACH}}, Sent{Sent: 4}, "[1 2 3 4]", 0},
		{"refused for another reason", same, false, []step{{0, unix.EINVAL}, {0, unix.EINVAL}, {0, unix.EINVAL}, {0, unix.EINVAL}, {0, unix.EINVAL}},
			Sent{Lost: 4}, "[]", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			far := listen(t, "udp", "127.0.0.1:0")
			s := New(dial(t, far.LocalAddr()), Options{})
			s.many.segment.Store(MaxLen)
			sent := []int{}
			s.many.post = func(_ int, m []nonblock.Message) (int, error) {
				n := len(m)
				if len(tt.steps) > 0 {
					now := tt.steps[0]
					tt.steps = tt.steps[1:]
					if now.err != nil {
						return 0, now.err
					}
					n = now.take
				}
				for i := range m[:n] {
					size := 0
					for _, v := range vectors(&m[i]) {
						size += int(v.Len)
					}
					sent = append(sent, size)
				}
				return n, nil
			}
			var list [][]byte
			for i, n := range tt.sizes {
				list = append(list, filled(i, n))
			}
			send := s.Send
			if tt.try {
				send = s.TrySend
			}
			done, err := send(Envelope{}, list)
			if err != nil || done != tt.want || fmt.Sprint(sent) != tt.sent {
				t.Errorf("got %+v, %v, and the system took %v; want %+v and %s", done, err, sent, tt.want, tt.sent)
			}
			want := int32(MaxLen)
			if tt.segment != 0 {
				want = max(tt.segment, 0)
			}
			if got := s.many.segment.Load(); got != want {
				t.Errorf("datagrams below %d bytes go together, want %d", got, want)
			}
			if len(tt.steps) > 0 {
				t.Errorf("%d calls fewer than expected", len(tt.steps))
			}
		})
	}
}

// vectors returns what a message is put together from.
func vectors(m *nonblock.Message) []unix.Iovec { return unsafe.Slice(m.Iov, m.Iovlen) }

func control(level, typ int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	head := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	head.Level, head.Type = level, typ
	head.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

// What the system tells of a datagram counts as far as it is whole.
func TestTell(t *testing.T) {
	t.Parallel()
	info4 := control(unix.IPPROTO_IP, unix.IP_PKTINFO, []byte{1, 0, 0, 0, 127, 0, 0, 2, 127, 0, 0, 3})
	info6 := control(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append(netip.MustParseAddr("2001:db8::1").AsSlice(), 1, 0, 0, 0))
	mapped := control(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append([]byte{10: 255, 11: 255, 12: 127, 15: 9}, 1, 0, 0, 0))
	multicast := control(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append(netip.MustParseAddr("ff02::1").AsSlice(), 1, 0, 0, 0))
	scoped := control(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, binary.NativeEndian.AppendUint32(netip.MustParseAddr("fe80::1").AsSlice(), 7))
	size := control(unix.IPPROTO_UDP, unix.UDP_GRO, binary.NativeEndian.AppendUint32(nil, 1400))
	half := unix.CmsgLen(0) + 2
	for _, tt := range []struct {
		name    string
		control []byte
		to      string
		size    int
		ok      bool
	}{
		{"nothing", nil, "", 0, true},
		{"IPv4", info4, "127.0.0.2", 0, true},
		{"IPv6", info6, "2001:db8::1", 0, true},
		{"IPv4 in IPv6, which may be a broadcast", mapped, "", 0, true},
		{"IPv4 on a socket of IPv6", append(bytes.Clone(info4), mapped...), "127.0.0.2", 0, true},
		{"the other way round", append(bytes.Clone(mapped), info4...), "127.0.0.2", 0, true},
		{"multicast", multicast, "", 0, true},
		{"link-local", scoped, "fe80::1%7", 0, true},
		{"size", size, "", 1400, true},
		{"both", append(bytes.Clone(info4), size...), "127.0.0.2", 1400, true},
		{"the other way round", append(bytes.Clone(size), info6...), "2001:db8::1", 1400, true},
		{"unknown", append(control(unix.SOL_SOCKET, 99, []byte{1}), size...), "", 1400, true},
		{"a short address", control(unix.IPPROTO_IP, unix.IP_PKTINFO, []byte{1, 0, 0, 0, 127}), "", 0, true},
		{"a short size", control(unix.IPPROTO_UDP, unix.UDP_GRO, []byte{1, 2}), "", 0, true},
		{"a size below 0", control(unix.IPPROTO_UDP, unix.UDP_GRO, []byte{255, 255, 255, 255}), "", -1, false},
		{"half a head", size[:7], "", 0, false},
		{"half a message", size[:half], "", 0, false},
		{"half of the second", append(bytes.Clone(info4), size[:half]...), "127.0.0.2", 0, false},
		{"a length of 0", make([]byte, 32), "", 0, false},
	} {
		var r Run
		ok := r.tell(tt.control)
		to := ""
		if r.To.IsValid() {
			to = r.To.String()
		}
		if ok != tt.ok || to != tt.to || r.Size != tt.size {
			t.Errorf("%s: got %q, %d, %t; want %q, %d, %t", tt.name, to, r.Size, ok, tt.to, tt.size, tt.ok)
		}
	}
}

// A message of which the system has not told all is no datagram.
func TestTruncated(t *testing.T) {
	t.Parallel()
	b := &batches{connected: true}
	for _, tt := range []struct {
		flags int32
		ok    bool
	}{{0, true}, {unix.MSG_TRUNC, false}, {unix.MSG_CTRUNC, false}} {
		in := inboxes.Get().(*inbox)
		m := &in.messages[0]
		m.Flags, m.N = tt.flags, 10
		m.SetControllen(0)
		if r, ok := b.run(in, 0); ok != tt.ok || ok && len(r.B) != 10 {
			t.Errorf("flags %#x: got %d bytes, %t; want %t", tt.flags, len(r.B), ok, tt.ok)
		}
		m.Flags = 0
		in.reset(0)
		inboxes.Put(in)
	}
}

func FuzzTell(f *testing.F) {
	f.Add(control(unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, 12)))
	f.Add(control(unix.IPPROTO_UDP, unix.UDP_GRO, []byte{1, 0, 0, 0}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := Run{B: make([]byte, 100)}
		if !r.tell(append(make([]byte, 0, len(b)+8), b...)) {
			return
		}
		n := 0
		for d := range r.All() {
			n += len(d)
		}
		if n != 100 {
			t.Fatalf("a run of 100 bytes was cut into %d", n)
		}
	})
}

func TestZones(t *testing.T) {
	t.Parallel()
	b := new(batches)
	lo := b.zoneID("lo")
	if lo == 0 {
		t.Skip("there is no interface lo")
	}
	for _, tt := range []struct {
		name string
		id   uint32
	}{{"lo", lo}, {"", 0}, {"4000000000", 4000000000}} {
		if got := b.zoneName(tt.id); got != tt.name {
			t.Errorf("name of %d: got %q, want %q", tt.id, got, tt.name)
		}
		if got := b.zoneID(tt.name); got != tt.id {
			t.Errorf("number of %q: got %d, want %d", tt.name, got, tt.id)
		}
	}
	if got := b.zoneID("no such interface"); got != 0 {
		t.Errorf("number of what is none: got %d, want 0", got)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	far := listen(t, "udp", "127.0.0.1:0")
	s, c := New(far, Options{}), New(dial(t, far.LocalAddr()), Options{})
	list := [][]byte{filled(1, 1200), filled(2, 1200), filled(3, 7)}
	n := 0
	take := func(r Run) { n += r.Len() }
	if got := testing.AllocsPerRun(100, func() {
		c.Send(Envelope{}, list)
		for n = 0; n < len(list); {
			s.Receive(take)
		}
	}); got > 1 && !raceEnabled { // memory for both may have to be found anew once
		t.Errorf("%v allocations for three datagrams, want none", got)
	}
}
