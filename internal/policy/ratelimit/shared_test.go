package ratelimit

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/policy"
)

// fake is a store that does as it is told.
type fake struct {
	err    error
	states []limit.State
	asked  int
	added  []limit.Call
}

func (f *fake) Take(_ context.Context, calls []limit.Call) error {
	f.asked++
	for i := range calls {
		calls[i].State = f.states[i]
	}
	return f.err
}

func (f *fake) Add(_ context.Context, calls []limit.Call) error {
	f.added = append(f.added, calls...)
	return f.err
}

func asker() *exchange.Exchange {
	x := exchange.Get()
	x.Client = &exchange.Client{Addr: netip.MustParseAddrPort("192.0.2.1:80")}
	return x
}

func shared(count int64, failure string) *Config {
	c := settings(count, "client")
	c.Store, c.OnFailure, c.Share = "redis", failure, 0.5
	return c
}

// TestFailureModes: what happens while the store does not answer is what the
// configuration says.
func TestFailureModes(t *testing.T) {
	for failure, want := range map[string][]int{
		"local":  {0, 0, 429}, // half of four at once
		"open":   {0, 0, 0},
		"closed": {503, 503, 503},
	} {
		l := compile(t, shared(4, failure), &fake{err: errors.New("down"), states: make([]limit.State, 1)})
		for i, status := range want {
			x := asker()
			l.Request(x)
			if got := 0; x.Problem != nil {
				got = x.Problem.Status
				if got != status {
					t.Errorf("%s, request %d: %d", failure, i, got)
				}
			} else if status != 0 {
				t.Errorf("%s, request %d passes", failure, i)
			}
		}
	}
}

// TestFloodEndsHere: a key that the store refused is not asked about again
// before it may pass.
func TestFloodEndsHere(t *testing.T) {
	f := &fake{states: []limit.State{{OK: false, Retry: time.Hour, Reset: time.Hour}}}
	l := compile(t, shared(4, "local"), f)
	for range 100 {
		x := asker()
		if l.Request(x) != policy.Stop || x.Problem.Status != 429 || x.Problem.Retry < time.Hour-time.Minute {
			t.Fatalf("%+v", x.Problem)
		}
	}
	if f.asked != 1 {
		t.Errorf("the store was asked %d times", f.asked)
	}
	f.states[0] = limit.State{OK: true, Remaining: 1}
	other := asker()
	other.Client = &exchange.Client{Addr: netip.MustParseAddrPort("192.0.2.2:80")}
	if l.Request(other) != policy.Next {
		t.Error("another key is refused with it")
	}
}

// TestGivesBack: what one limit gave to a request that another refuses is
// returned, and the cost that an answer tells is charged at the end.
func TestGivesBack(t *testing.T) {
	c := shared(0, "local")
	c.Limit = policy.Rate{}
	c.CostHeader = "X-Cost"
	c.Limits = []*Limit{
		{Limit: policy.Rate{Count: 10, Per: time.Second}, By: "client", Algorithm: "gcra", Cost: 1},
		{Limit: policy.Rate{Count: 100, Per: time.Second}, By: "route", Algorithm: "window", Cost: 2},
	}
	f := &fake{states: []limit.State{{OK: true}, {Retry: time.Millisecond}}}
	l := compile(t, c, f)
	l.Request(asker())
	if len(f.added) != 1 || f.added[0].Cost != -1 || f.added[0].Exact {
		t.Errorf("given back: %+v", f.added)
	}
	f.added, f.states = nil, []limit.State{{OK: true}, {OK: true}}
	x := asker()
	x.Route.Name = "another"
	l.Request(x)
	x.Response.Header.Add("X-Cost", "7")
	l.Response(x)
	l.Done(x)
	if len(f.added) != 2 || f.added[0].Cost != 6 || f.added[1].Cost != 5 {
		t.Errorf("charged: %+v", f.added)
	}
	if _, ok := x.Response.Header.Lookup("X-Cost"); ok {
		t.Error("the client sees the cost")
	}
}
