package spike

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// TestRaisedPace: a pace that was raised is not held up by the gap that the
// slow one left.
func TestRaisedPace(t *testing.T) { synctest.Test(t, raisedPace) }

func raisedPace(t *testing.T) {
	kept := make(map[string]any)
	ask := func(r policy.Rate, most time.Duration) *exchange.Problem {
		t.Helper()
		c := Kind().New().(*Config)
		c.Rate, c.MaxDelay = r, policy.Duration(most)
		p, err := c.Compile(&policy.Env{At: "route test #1", Slots: new(policy.Slots), Keep: func(key string, create func() any) any {
			if kept[key] == nil {
				kept[key] = create()
			}
			return kept[key]
		}})
		if err != nil {
			t.Fatal(err)
		}
		x := exchange.Get()
		x.Client = &exchange.Client{Addr: netip.MustParseAddrPort("192.0.2.1:80")}
		p.(policy.OnRequest).Request(x)
		return x.Problem
	}
	day := policy.Rate{Count: 1, Per: 24 * time.Hour}
	if p := ask(day, 0); p != nil {
		t.Fatalf("the first is refused: %v", p)
	}
	if p := ask(day, 0); p == nil || p.Retry < 23*time.Hour {
		t.Fatalf("the second of a day is let through, or told %v", p)
	}
	fast := policy.Rate{Count: 10_000, Per: time.Second}
	if p := ask(fast, time.Second); p != nil && p.Retry > 100*time.Microsecond {
		t.Errorf("at 10000/s a request is refused for %v", p.Retry)
	}
	time.Sleep(100 * time.Microsecond)
	if p := ask(fast, time.Second); p != nil {
		t.Errorf("and for ever: %v", p.Retry)
	}
}
