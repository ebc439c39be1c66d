package carrier_test

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"adit/carrier"
	"adit/internal/readable"
	"adit/internal/wsconn"
)

func TestTuned(t *testing.T) {
	t.Parallel()
	h, conns := acceptAll(t, carrier.AcceptOptions{})
	srv := httptest.NewServer(h)
	defer srv.Close()
	d := carrier.Dialer{URL: srv.URL}
	a, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b := <-conns
	defer b.Close()
	for side, c := range map[string]*wsconn.Conn{"dialled": a, "accepted": b} {
		rc, _ := readable.Of(c.NetConn())
		rc.Control(func(fd uintptr) {
			for _, o := range []struct {
				name             string
				level, opt, want int
			}{
				{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
				{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
				{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30},
				{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10},
				{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
				{"TCP_NOTSENT_LOWAT", unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 128 << 10},
			} {
				if got, err := unix.GetsockoptInt(int(fd), o.level, o.opt); got != o.want || err != nil {
					t.Errorf("%s: %s = %d, %v; want %d", side, o.name, got, err, o.want)
				}
			}
			got, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
			if got = strings.TrimRight(got, "\x00"); got == "bbr" && err == nil && slices.Contains(carrier.Available(), "cubic") {
				t.Errorf("%s: bbr on loopback", side)
			}
		})
	}
}
