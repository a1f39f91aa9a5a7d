package fault_test

import (
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/fault"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "fault", Settings: "{ abort: 503, abort_share: 0% }"})
}

func compile(t *testing.T, c fault.Config) policy.OnRequest {
	t.Helper()
	p, err := c.Compile(&policy.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return p.(policy.OnRequest)
}

// The shares hold, and a delay takes exactly its time.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := compile(t, fault.Config{Delay: policy.Duration(time.Second), DelayShare: 0.2, Abort: 500, AbortShare: 0.1})
		delayed, aborted := 0, 0
		for range 10_000 {
			x := exchange.Get()
			before := time.Now()
			stop := p.Request(x) == policy.Stop
			switch d := time.Since(before); d {
			case 0:
			case time.Second:
				delayed++
			default:
				t.Fatalf("it took %v", d)
			}
			if stop != (x.Problem != nil) {
				t.Fatal("stopped without a problem, or not")
			}
			if stop {
				aborted++
			}
			exchange.Put(x)
		}
		if delayed < 1800 || delayed > 2200 || aborted < 850 || aborted > 1150 {
			t.Errorf("of 10000 %d were delayed and %d aborted", delayed, aborted)
		}
	})
}

// A client that goes is not waited for.
func TestClientGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := compile(t, fault.Config{Delay: policy.Duration(time.Hour), DelayShare: 1})
		x := exchange.Get()
		defer exchange.Put(x)
		before := time.Now()
		go func() {
			time.Sleep(time.Second)
			x.Cancel(exchange.ErrClientGone)
		}()
		if p.Request(x) != policy.Stop || x.Problem == nil || x.Problem.Status != exchange.StatusClientGone || time.Since(before) != time.Second {
			t.Errorf("%v after %v", x.Problem, time.Since(before))
		}
	})
}

func BenchmarkPlain(b *testing.B) {
	serve := policytest.Plain(b, all.Catalog(), `
routes:
  - match: /*
    upstream: http://up
    policies: [ fault: { abort: 503, field: X-Fault } ]
`, nil)
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
}
