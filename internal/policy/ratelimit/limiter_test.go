package ratelimit

import (
	"net/netip"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/policy"
)

// compile compiles settings outside a gateway.
func compile(t testing.TB, c *Config, service any) *limiter {
	t.Helper()
	return make(live).apply(t, c, service)
}

func settings(count int64, by string) *Config {
	c := Kind().New().(*Config)
	c.Limit, c.By = policy.Rate{Count: count, Per: time.Second}, by
	return c
}

// BenchmarkLimit is a decision by itself: the request step and no more.
func BenchmarkLimit(b *testing.B) {
	for _, by := range []string{"client", "consumer", "header:X-Key", "route"} {
		b.Run(by, func(b *testing.B) {
			c := settings(1_000_000, by)
			c.Burst = 100_000_000
			l := compile(b, c, nil)
			x := exchange.Get()
			x.Client = &exchange.Client{Addr: netip.MustParseAddrPort("192.0.2.1:80")}
			x.Request.Header.Add("X-Key", "4711")
			x.Who.Consumer = "mobile"
			b.ReportAllocs()
			for b.Loop() {
				if l.Request(x) != policy.Next {
					b.Fatal("refused")
				}
			}
		})
	}
}

// TestRefusalDoesNotAllocate: a flood must not feed the collector.
func TestRefusalDoesNotAllocate(t *testing.T) {
	l := compile(t, settings(1, "client"), nil)
	x := exchange.Get()
	x.Client = &exchange.Client{Addr: netip.MustParseAddrPort("192.0.2.1:80")}
	l.Request(x)
	if n := testing.AllocsPerRun(100, func() {
		x.Problem = nil
		if l.Request(x) != policy.Stop {
			t.Fatal("not refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPart(t *testing.T) {
	for _, c := range []struct {
		rule, want limit.Rule
		cost       int64
	}{
		{limit.Rule{Count: 90, Per: time.Minute, Burst: 30}, limit.Rule{Count: 30, Per: time.Minute, Burst: 10}, 1},
		{limit.Rule{Count: 1, Per: time.Minute, Burst: 1}, limit.Rule{Count: 1, Per: 3 * time.Minute, Burst: 1}, 1},
		{limit.Rule{Count: 90, Per: time.Minute, Burst: 30}, limit.Rule{Count: 30, Per: time.Minute, Burst: 20}, 20},
		{limit.Rule{Count: 9, Per: time.Minute, Burst: 9}, limit.Rule{Count: 6, Per: 2 * time.Minute, Burst: 6}, 6},
	} {
		got := c.rule.Part(1.0/3, c.cost)
		if got.Count != c.want.Count || got.Burst != c.want.Burst || got.Per.Round(time.Millisecond) != c.want.Per {
			t.Errorf("%+v: %+v", c.rule, got)
		}
	}
}
