package observe

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

func TestRoute(t *testing.T) {
	m := newMetrics(10)
	r := m.Route("products")
	for shard := range uint32(100) {
		x := sample()
		x.Client.Shard = shard
		r.Begin(shard)
		r.End(x)
	}
	r.Begin(3)
	x := failing(502, exchange.SideUpstream)
	r.End(x)
	x = sample()
	x.Response.Status = 299
	r.Begin(0)
	r.End(x)
	x = sample()
	x.Response.Status, x.Response.Sent = 0, 0
	r.Begin(0)
	r.End(x)
	x = sample()
	x.Response.Status, x.Times.Start = 101, x.Times.End-int64(time.Hour)
	r.Begin(0)
	r.End(x)
	r.Begin(0)
	r.Begin(1)
	expect(t, m, map[string]string{
		`gatehouse_requests_total{class="2xx",code="200",route="products"}`:                "100",
		`gatehouse_requests_total{class="5xx",code="502",route="products"}`:                "1",
		`gatehouse_requests_total{class="2xx",code="other",route="products"}`:              "1",
		`gatehouse_requests_total{class="none",code="other",route="products"}`:             "1",
		`gatehouse_requests_total{class="1xx",code="101",route="products"}`:                "1",
		`gatehouse_requests_in_flight{route="products"}`:                                   "2",
		`gatehouse_request_body_bytes_total{route="products"}`:                             strconv.Itoa(17 * 104),
		`gatehouse_response_body_bytes_total{route="products"}`:                            strconv.Itoa(488 * 103),
		`gatehouse_request_duration_seconds_count{route="products"}`:                       "103", // the tunnel's hour is no answer's
		`gatehouse_request_duration_seconds_bucket{route="products",le="0.01"}`:            "0",
		`gatehouse_request_duration_seconds_bucket{route="products",le="0.025"}`:           "103",
		`gatehouse_request_duration_seconds_bucket{route="products",le="+Inf"}`:            "103",
		`gatehouse_problems_total{code="upstream_reset",route="products",side="upstream"}`: "1",
		`gatehouse_requests_in_flight{route="none"}`:                                       "",
		`gatehouse_requests_in_flight{route="other"}`:                                      "",
	})
	if names := with(series(t, m), "go_goroutines"); len(names) != 1 {
		t.Errorf("the Go runtime's series are missing: %q", names)
	}
	runtime.KeepAlive(r)
}

func TestDurationBuckets(t *testing.T) {
	for _, c := range []struct {
		d  time.Duration
		in int
	}{
		{0, 0},
		{500 * time.Microsecond, 0},
		{500*time.Microsecond + 1, 1},
		{-1, 0},
		{30 * time.Second, len(durationBounds) - 1},
		{time.Hour, len(durationBounds)},
	} {
		var h durations
		h.observe(c.d)
		if h.buckets[c.in].Load() != 1 {
			t.Errorf("%v is not in bucket %d", c.d, c.in)
		}
	}
}

func TestStatusLabels(t *testing.T) {
	for status := -1; status < 1000; status++ {
		class, code := statusLabels(statusIndex(status))
		if code != other && code != strconv.Itoa(status) {
			t.Errorf("status %d is counted as %q", status, code)
		}
		want := "none"
		if status >= 100 && status < 600 {
			want = strconv.Itoa(status/100) + "xx"
		}
		if class != want {
			t.Errorf("status %d is counted in class %q", status, class)
		}
	}
}

func TestProblemCodesAreBounded(t *testing.T) {
	m := newMetrics(10)
	r := m.Route("a")
	for i := range 10 * mostProblems {
		x := failing(500, exchange.SideGateway)
		x.Problem.Code = "code_" + strconv.Itoa(i)
		r.Begin(0)
		r.End(x)
	}
	all := series(t, m)
	if n := len(with(all, "gatehouse_problems_total{")); n > mostProblems+1 {
		t.Errorf("%d codes have a series", n)
	}
	if got := all[`gatehouse_problems_total{code="other",route="a",side="gateway"}`]; got != strconv.Itoa(9*mostProblems) {
		t.Errorf("the others are counted as %q", got)
	}
	runtime.KeepAlive(r)
}

func TestNamesAreBounded(t *testing.T) {
	m := newMetrics(3)
	var kept []any
	for i := range 10 {
		name := "r" + strconv.Itoa(i)
		r, l, u := m.Route(name), m.Listener(name), m.Upstream(name)
		r.Begin(0)
		l.Opened(0)
		u.Opened(0)
		kept = append(kept, r, l, u)
	}
	expect(t, m, map[string]string{
		`gatehouse_requests_in_flight{route="r2"}`:            "1",
		`gatehouse_requests_in_flight{route="r3"}`:            "",
		`gatehouse_requests_in_flight{route="other"}`:         "7",
		`gatehouse_listener_connections{listener="other"}`:    "7",
		`gatehouse_upstream_connections{upstream="other"}`:    "7",
		`gatehouse_upstream_connections_total{upstream="r0"}`: "1",
	})
	if m.Route("none") == m.Route("other") || m.Route("r9") != m.Route("other") {
		t.Error("the names of the gateway itself count towards the limit")
	}
	runtime.KeepAlive(kept)
}

// A configuration that renames every route has as many series of its own as
// the one before, although both are in use for a moment.
func TestNamesOverReloads(t *testing.T) {
	m := newMetrics(3)
	compile := func(prefix string) (routes []*Route) {
		for i := range 3 {
			routes = append(routes, m.Route(fmt.Sprint(prefix, i)))
		}
		return routes
	}
	old := compile("a")
	old[0].Begin(0)
	m.Reload(true, "1")
	again := compile("a")
	m.Reload(true, "2")
	if again[0] != old[0] {
		t.Error("a route that stays has new counters")
	}
	renamed := compile("b")
	m.Reload(true, "3")
	if renamed[2] == m.Route(other) {
		t.Error("a renamed route has no series of its own")
	}
	third := compile("c")
	if third[0] != m.Route(other) {
		t.Error("names may grow without limit as long as older ones are kept")
	}
	runtime.KeepAlive(old)
	for range 3 {
		runtime.GC()
	}
	if names := with(series(t, m), `route="a`); len(names) > 0 {
		t.Errorf("a route that nobody uses has series: %q", names)
	}
	if names := with(series(t, m), `gatehouse_requests_in_flight{route="b`); len(names) != 3 {
		t.Errorf("routes in use have the series %q", names)
	}
	m.Reload(false, "3")
	if fourth := compile("d"); fourth[2] == m.Route(other) {
		t.Error("a name that nobody uses takes the room of another")
	}
	runtime.KeepAlive(renamed)
}

func TestOddNames(t *testing.T) {
	m := newMetrics(10)
	a, b := m.Route("a\xff"), m.Route("a\xfe")
	if a != b {
		t.Error("two names that read the same have two counters")
	}
	a.Begin(0)
	m.Route("q\"\n\\").Begin(0)
	c := m.Route("q\"\n\\")
	expect(t, m, map[string]string{
		"gatehouse_requests_in_flight{route=\"a\uFFFD\"}": "1",
		`gatehouse_requests_in_flight{route="q\"\n\\"}`:   "1",
	})
	runtime.KeepAlive([]any{a, b, c})
}

func TestConnections(t *testing.T) {
	m := newMetrics(10)
	l, u := m.Listener("public"), m.Upstream("products")
	for shard := range uint32(50) {
		l.Opened(shard)
		u.Opened(shard)
		u.FirstByte(shard, 3*time.Millisecond)
		u.Idle(shard, 1)
	}
	for range 20 {
		l.Closed(7)
		u.Closed(7)
		u.Idle(9, -1)
	}
	u.Failed(1)
	u.Reused(2)
	u.Reused(3)
	u.Retried(4)
	u.Tunnels(5, 2)
	u.Tunnels(6, -1)
	expect(t, m, map[string]string{
		`gatehouse_listener_connections{listener="public"}`:                            "30",
		`gatehouse_listener_connections_total{listener="public"}`:                      "50",
		`gatehouse_upstream_connections{upstream="products"}`:                          "30",
		`gatehouse_upstream_connections_idle{upstream="products"}`:                     "30",
		`gatehouse_upstream_connections_total{upstream="products"}`:                    "50",
		`gatehouse_upstream_connection_failures_total{upstream="products"}`:            "1",
		`gatehouse_upstream_connections_reused_total{upstream="products"}`:             "2",
		`gatehouse_upstream_retries_total{upstream="products"}`:                        "1",
		`gatehouse_upstream_tunnels{upstream="products"}`:                              "1",
		`gatehouse_upstream_first_byte_seconds_count{upstream="products"}`:             "50",
		`gatehouse_upstream_first_byte_seconds_bucket{upstream="products",le="0.005"}`: "50",
	})
	runtime.KeepAlive(l)
	runtime.KeepAlive(u)
}

func TestReload(t *testing.T) {
	m := newMetrics(10)
	expect(t, m, map[string]string{
		`gatehouse_config_reloads_total{result="ok"}`:     "0",
		`gatehouse_config_reloads_total{result="failed"}`: "0",
		`gatehouse_config_last_reload_successful`:         "",
	})
	m.Reload(true, "one")
	m.Reload(true, "two")
	m.Reload(false, "two")
	expect(t, m, map[string]string{
		`gatehouse_config_reloads_total{result="ok"}`:     "2",
		`gatehouse_config_reloads_total{result="failed"}`: "1",
		`gatehouse_config_last_reload_successful`:         "0",
		`gatehouse_config_info{digest="two"}`:             "1",
		`gatehouse_config_info{digest="one"}`:             "",
	})
	if series(t, m)["gatehouse_config_last_reload_success_timestamp_seconds"] == "" {
		t.Error("the time of the last success is missing")
	}
}

// Counting, compiling and scraping go on at once, and nothing in flight is ever
// fewer than nothing.
func TestMetricsAtOnce(t *testing.T) {
	m := newMetrics(100)
	var busy sync.WaitGroup
	stop := make(chan struct{})
	for shard := range uint32(4) {
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := "r" + strconv.Itoa(i%5)
				r, l, u := m.Route(name), m.Listener(name), m.Upstream(name)
				x := failing(502, exchange.SideUpstream)
				x.Client.Shard = shard
				r.Begin(shard)
				r.End(x)
				l.Opened(shard)
				l.Closed(shard)
				u.FirstByte(shard, 1)
				exchange.Put(x)
			}
		})
	}
	for i := range 20 {
		m.Reload(i%2 == 0, strconv.Itoa(i))
		for name, value := range series(t, m) {
			if value[0] == '-' {
				t.Errorf("%s is %s", name, value)
			}
		}
	}
	close(stop)
	busy.Wait()
}

func TestCountingDoesNotAllocate(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	m := newMetrics(10)
	r, l, u := m.Route("a"), m.Listener("a"), m.Upstream("a")
	x := sample()
	bad := failing(502, exchange.SideUpstream)
	if n := testing.AllocsPerRun(1000, func() {
		r.Begin(1)
		r.End(x)
		r.End(bad)
		l.Opened(1)
		l.Closed(1)
		u.Opened(1)
		u.Reused(1)
		u.Idle(1, 1)
		u.FirstByte(1, time.Millisecond)
	}); n > 0 {
		t.Errorf("counting one request allocates %v times", n)
	}
}

func BenchmarkRoute(b *testing.B) {
	m := newMetrics(10)
	r := m.Route("a")
	x := sample()
	b.ReportAllocs()
	for b.Loop() {
		r.Begin(1)
		r.End(x)
	}
}

// BenchmarkRouteProblem is a request that was refused.
func BenchmarkRouteProblem(b *testing.B) {
	m := newMetrics(10)
	r := m.Route("a")
	x := failing(404, exchange.SideClient)
	x.Problem.Cause = errors.New("none")
	b.ReportAllocs()
	for b.Loop() {
		r.Begin(1)
		r.End(x)
	}
}

func TestSpared(t *testing.T) {
	m := newMetrics(1)
	for range 2 { // as two uses of a kind do
		m.Spared("authorize")("dry_run")
	}
	m.Spared("opa")("fail_open")
	expect(t, m, map[string]string{
		`gatehouse_policy_spared_total{policy="authorize",reason="dry_run"}`: "2",
		`gatehouse_policy_spared_total{policy="opa",reason="fail_open"}`:     "1",
	})
}

// Two certificates with the same file and name are one series: two of the same
// labels would leave no metrics at all.
func TestCertificates(t *testing.T) {
	m := newMetrics(1)
	m.Certificates(func(yield func(source, name string, expires time.Time)) {
		yield("a.crt", "a.example", time.Unix(200, 0))
		yield("a.crt", "a.example", time.Unix(100, 0))
		yield("b\xff.crt", "", time.Unix(300, 0))
	})
	expect(t, m, map[string]string{
		`gatehouse_certificate_expiry_timestamp_seconds{name="a.example",source="a.crt"}`:  "100",
		"gatehouse_certificate_expiry_timestamp_seconds{name=\"\",source=\"b\uFFFD.crt\"}": "300",
	})
}
