package carrier_test

import (
	"net"
	"testing"

	"adit/carrier"
)

func TestCongestionControl(t *testing.T) {
	t.Parallel()
	all := []string{"reno", "cubic", "bbr"}
	for _, tt := range []struct {
		name      string
		current   string
		available []string
		near      bool
		want      string
	}{
		{"far", "cubic", all, false, "bbr"},
		{"far, set already", "bbr", all, false, "bbr"},
		{"far, not available", "cubic", []string{"reno", "cubic"}, false, "cubic"},
		{"far, unknown kernel", "cubic", nil, false, "cubic"},
		{"near", "cubic", all, true, "cubic"},
		{"near, bbr is the default", "bbr", all, true, "cubic"},
		{"near, without cubic", "bbr", []string{"bbr", "reno"}, true, "reno"},
		{"near, bbr alone", "bbr", []string{"bbr"}, true, "bbr"},
		{"near, another", "dctcp", all, true, "dctcp"},
	} {
		if got := carrier.CongestionControl(tt.current, tt.available, tt.near); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Conns that it can do nothing for are no error.
func TestTuneOthers(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	carrier.Tune(a)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	carrier.Tune(c)
}
