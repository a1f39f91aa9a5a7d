package observe

import (
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// TestGuide keeps the guide's lists of metrics and fields whole.
func TestGuide(t *testing.T) {
	text, err := os.ReadFile("../../docs/guides/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	guide := string(text)

	m := newMetrics(1)
	r, l, u := m.Route("a"), m.Listener("a"), m.Upstream("a")
	u.Event("shed")
	m.Endpoints(func(yield func(upstream, state string, n int)) { yield("a", "healthy", 1) })
	m.Certificates(func(yield func(source, name string, expires time.Time)) { yield("a.crt", "a.example", time.Unix(1, 0)) })
	m.Spared("authorize")("dry_run")
	m.Redis(func() bool { return false })
	r.Begin(0)
	l.Secured(0)
	l.Moved(0, 1, 1)
	x := failing(502, exchange.SideUpstream)
	x.Response.Truncated = true
	r.End(x)
	m.Reload(true, "a")
	shown := make(map[string]bool)
	for name := range series(t, m) {
		name, _, _ = strings.Cut(name, "{")
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, part)
		}
		if strings.HasPrefix(name, "gatehouse_") {
			shown[name] = true
		}
	}
	runtime.KeepAlive([]any{r, l, u})
	for name := range shown {
		if !strings.Contains(guide, "`"+name+"`") {
			t.Errorf("the guide has no metric %s", name)
		}
	}
	for _, name := range regexp.MustCompile("`(gatehouse_[a-z_]+)`").FindAllStringSubmatch(guide, -1) {
		if !shown[name[1]] {
			t.Errorf("the guide has a metric %s, and nothing counts it", name[1])
		}
	}

	line := string(appendJSON(nil, x, fixed(x)))
	_, table, _ := strings.Cut(guide, "| field | may be missing | tells |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	listed := make(map[string]bool)
	for row := range strings.Lines(table) {
		first, _, _ := strings.Cut(strings.TrimPrefix(row, "|"), "|")
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(first, -1) {
			listed[name[1]] = true
			if !strings.Contains(line, `"`+name[1]+`":`) {
				t.Errorf("the guide has a field %s, and no line has it", name[1])
			}
		}
	}
	for _, name := range regexp.MustCompile(`[{,]"([a-z_]+)":`).FindAllStringSubmatch(line, -1) {
		if !listed[name[1]] {
			t.Errorf("the guide has no field %s", name[1])
		}
	}
}
