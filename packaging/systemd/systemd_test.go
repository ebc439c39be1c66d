package systemd

import (
	"strings"
	"testing"
)

func TestUnits(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		unit           func(binary, config string) string
		binary, config string
		want           string
	}{
		"server":          {Server, "/usr/bin/adit", "/etc/adit/server.yaml", "ExecStart=/usr/bin/adit server --config /etc/adit/server.yaml --data-dir /var/lib/adit"},
		"agent":           {Agent, "/usr/bin/adit", "/etc/adit/agent.yaml", "ExecStart=/usr/bin/adit agent --config /etc/adit/agent.yaml"},
		"words to quote":  {Agent, "/opt/my tools/adit", "/etc/adit/a.yaml", `ExecStart="/opt/my tools/adit" agent --config /etc/adit/a.yaml`},
		"specifiers":      {Agent, "/opt/100%/adit", "/etc/$HOME.yaml", "ExecStart=/opt/100%%/adit agent --config /etc/$$HOME.yaml"},
		"quotes":          {Agent, `/opt/a"b`, "/etc/a.yaml", `ExecStart="/opt/a\"b" agent --config /etc/a.yaml`},
		"a second config": {Server, "/usr/bin/adit", "/etc/adit/@BINARY@", "ExecStart=/usr/bin/adit server --config /etc/adit/@BINARY@ --data-dir /var/lib/adit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got string
			for line := range strings.Lines(tt.unit(tt.binary, tt.config)) {
				if strings.HasPrefix(line, "ExecStart=") {
					got += strings.TrimSuffix(line, "\n")
				}
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
