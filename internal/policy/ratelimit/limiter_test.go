package ratelimit

import (
	"log/slog"
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
	kept := make(map[string]any)
	p, err := c.Compile(&policy.Env{
		Name: "rate_limit", At: "route test #1", Log: slog.New(slog.DiscardHandler), Slots: new(policy.Slots),
		Service: func(string) any { return service },
		Keep: func(key string, create func() any) any {
			if kept[key] == nil {
				kept[key] = create()
			}
			return kept[key]
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p.(*limiter)
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

// TestClientsApart looks at which addresses are one client.
func TestClientsApart(t *testing.T) {
	l := compile(t, settings(1, "client"), nil)
	key := func(addr string) uint64 {
		x := &exchange.Exchange{Client: &exchange.Client{Addr: netip.AddrPortFrom(netip.MustParseAddr(addr), 1)}}
		return l.limits[0].hash(x, l.seed)
	}
	for _, same := range [][2]string{
		{"192.0.2.1", "::ffff:192.0.2.1"},
		{"2001:db8::1", "2001:db8::ffff:1:2:3"},
	} {
		if key(same[0]) != key(same[1]) {
			t.Errorf("%s and %s are counted apart", same[0], same[1])
		}
	}
	for _, apart := range [][2]string{
		{"192.0.2.1", "192.0.2.2"},
		{"2001:db8::1", "2001:db8:0:1::1"},
		{"::1", "0.0.0.1"},
	} {
		if key(apart[0]) == key(apart[1]) {
			t.Errorf("%s and %s are counted together", apart[0], apart[1])
		}
	}
}

// TestKindsOfKeysApart: what stands in a header is never taken for a name.
func TestKindsOfKeysApart(t *testing.T) {
	x := exchange.Get()
	x.Client = &exchange.Client{Addr: netip.MustParseAddrPort("192.0.2.1:80"), IP: "192.0.2.1"}
	x.Who.Consumer, x.Route.Name = "same", "same"
	x.Request.Header.Add("X-Key", "same")
	seen := make(map[string]string)
	for _, by := range []string{"client", "consumer", "route", "header:X-Key", "consumer.name"} {
		l := compile(t, settings(1, by), nil)
		if first, ok := seen[l.limits[0].text(x)]; ok {
			t.Errorf("%s and %s make the same key", by, first)
		}
		seen[l.limits[0].text(x)] = by
	}
}

func TestPart(t *testing.T) {
	for _, c := range []struct{ rule, want limit.Rule }{
		{limit.Rule{Count: 90, Per: time.Minute, Burst: 30}, limit.Rule{Count: 30, Per: time.Minute, Burst: 10}},
		{limit.Rule{Count: 1, Per: time.Minute, Burst: 1}, limit.Rule{Count: 1, Per: 3 * time.Minute, Burst: 1}},
	} {
		got := c.rule.Part(1.0 / 3)
		if got.Count != c.want.Count || got.Burst != c.want.Burst || got.Per.Round(time.Millisecond) != c.want.Per {
			t.Errorf("%+v: %+v", c.rule, got)
		}
	}
}
