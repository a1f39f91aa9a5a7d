package ratelimit

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/policy"
)

// live compiles one configuration after the other in one gateway.
type live map[string]any

func (kept live) apply(t testing.TB, c *Config, service any) *limiter {
	t.Helper()
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

// ask sends a request and tells its status, 0 when it goes on.
func ask(l *limiter) int {
	x := asker()
	defer exchange.Put(x)
	if l.Request(x) == policy.Next {
		return 0
	}
	return x.Problem.Status
}

// TestReload: whatever is changed of a limit, what was used stays used, and
// nothing is counted twice.
func TestReload(t *testing.T) {
	for _, algorithm := range []string{"gcra", "window"} {
		c := settings(3, "client")
		c.Limit.Per, c.Algorithm = time.Hour, algorithm
		kept := make(live)
		for range 3 {
			if ask(kept.apply(t, c, nil)) != 0 {
				t.Fatalf("%s: refused below the limit", algorithm)
			}
		}
		for what, change := range map[string]func(c *Config){
			"nothing": func(*Config) {}, "count": func(c *Config) { c.Limit.Count = 2 },
			"keys": func(c *Config) { c.MaxKeys = 50_000 }, "fields": func(c *Config) { c.Headers = false },
		} {
			changed := *c
			change(&changed)
			if got := ask(kept.apply(t, &changed, nil)); got != 429 {
				t.Errorf("%s: after a change of %s the answer is %d", algorithm, what, got)
			}
		}
		raised := *c
		if raised.Burst = 5; algorithm == "window" {
			raised.Burst, raised.Limit.Count, raised.Limit.Per = 0, 5, 24*time.Hour
		}
		if l := kept.apply(t, &raised, nil); ask(l) != 0 {
			t.Errorf("%s: a raised limit refuses", algorithm)
		} else if ask(l); ask(l) != 429 {
			t.Errorf("%s: a raised limit forgot what was used", algorithm)
		}
	}
}

// TestRaised: a limit that was raised is not held up by what the store refused
// before.
func TestRaised(t *testing.T) {
	f := &fake{states: []limit.State{{Retry: time.Hour, Reset: time.Hour}}}
	kept, c := make(live), shared(4, "local")
	for range 2 {
		if got := ask(kept.apply(t, c, f)); got != 429 || f.asked != 1 {
			t.Fatalf("%d, and the store was asked %d times", got, f.asked)
		}
	}
	f.states[0] = limit.State{OK: true}
	c.Limit.Count = 100
	if got := ask(kept.apply(t, c, f)); got != 0 || f.asked != 2 {
		t.Errorf("%d, and the store was asked %d times", got, f.asked)
	}
}

// TestAlgorithmChanges: what a store keeps for one algorithm is nothing that
// the other could read.
func TestAlgorithmChanges(t *testing.T) {
	c := shared(4, "local")
	rate := make(live).apply(t, c, &fake{})
	c.Algorithm = "window"
	if window := make(live).apply(t, c, &fake{}); window.limits[0].key == rate.limits[0].key {
		t.Error("both algorithms use one key")
	}
}

// TestDryRunNeverRefuses, whatever the store does.
func TestDryRunNeverRefuses(t *testing.T) {
	for _, failure := range []string{"local", "open", "closed"} {
		c := shared(1, failure)
		c.DryRun = true
		l := compile(t, c, &fake{err: errors.New("down"), states: make([]limit.State, 1)})
		for range 3 {
			if got := ask(l); got != 0 {
				t.Errorf("on_failure %s: a dry run answers %d", failure, got)
			}
		}
	}
}

// TestShareOfDear: a gateway by itself lets requests through that cost more
// than its share of the burst, only less often.
func TestShareOfDear(t *testing.T) {
	for _, algorithm := range []string{"gcra", "window"} {
		c := shared(6, "local")
		c.Algorithm, c.Cost, c.Share, c.Limit.Per = algorithm, 5, 1.0/3, time.Minute
		l := compile(t, c, &fake{err: errors.New("down"), states: make([]limit.State, 1)})
		if first, second := ask(l), ask(l); first != 0 || second != 429 {
			t.Errorf("%s: %d, then %d", algorithm, first, second)
		}
	}
}

// TestCostOfSeveral: each limit is charged the difference to what it took.
func TestCostOfSeveral(t *testing.T) {
	c := settings(0, "client")
	c.Limit, c.CostHeader = policy.Rate{}, "X-Cost"
	c.Limits = []*Limit{
		{Limit: policy.Rate{Count: 100, Per: time.Hour}, By: "client", Algorithm: "window", Cost: 3},
		{Limit: policy.Rate{Count: 100, Per: time.Hour}, By: "route", Algorithm: "window", Cost: 1},
	}
	for _, store := range []*fake{nil, {states: []limit.State{{OK: true}, {OK: true}}}} {
		c.Store = "redis"
		var l *limiter
		if store == nil {
			c.Store = "local"
			l = compile(t, c, nil)
		} else {
			l = compile(t, c, store)
		}
		x := asker()
		l.Request(x)
		x.Response.Header.Add("X-Cost", "3")
		l.Response(x)
		l.Done(x)
		if store != nil {
			if len(store.added) != 1 || store.added[0].Cost != 2 {
				t.Errorf("the store was told %+v", store.added)
			}
			continue
		}
		for i := range l.limits {
			if s := l.limits[i].local.Take(l.slot.Get(x).keys[i], 0, l.clock.Now()); s.Remaining != 97 {
				t.Errorf("limit %d: %d remain", i, s.Remaining)
			}
		}
	}
}
