package screen

import (
	"slices"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	t.Parallel()
	rows := [][]string{{"NAME", "TO", "N"}, {"日本", "x\x1b[2Jy", "1"}, {"", "", "22"}, {"longer"}}
	want := []string{
		"NAME    TO      N",
		"日本    x\ufffd[2Jy  1",
		"                22",
		"longer",
	}
	if got := (Style{Plain: true, Unicode: true}).Table(rows); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (Style{}).Table([][]string{{"A"}, {"b"}}); !slices.Equal(got, []string{"\x1b[1mA\x1b[0m", "b"}) {
		t.Errorf("got %q, want a strong heading", got)
	}
	if got := (Style{}).Table([][]string{nil, {"b", ""}}); !slices.Equal(got, []string{"b"}) {
		t.Errorf("got %q, want no heading", got)
	}
}

func TestAge(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{-time.Second: "0 s", 1900 * time.Millisecond: "1 s", time.Minute: "1m00s", 26 * time.Hour: "26h00m"} {
		if got := Age(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}
