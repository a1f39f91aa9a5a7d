package shed

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// TestPriorities plays a machine that can do half of what comes: low requests
// are turned away before normal ones, critical ones never, and all are let in
// again when the load is gone.
func TestPriorities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Pointer[reading]
		now.Store(&reading{cpu: 0.5})
		o := start(limits{cpu: 0.9, memory: 0.9, delay: 20 * time.Millisecond}, func() reading { return *now.Load() })
		defer o.Retire()
		share := func(rank float64, never bool) float64 {
			s, passed := &shedder{load: o, rank: rank, never: never}, 0
			for range 1000 {
				if s.Request(exchange.Get()) == policy.Next {
					passed++
				}
			}
			return float64(passed) / 1000
		}
		after := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		after(time.Second)
		if share(0, false) != 1 {
			t.Error("requests are turned away without need")
		}
		for name, r := range map[string]reading{"cpu": {cpu: 1}, "memory": {memory: 1}, "delay": {delay: time.Second}} {
			now.Store(&r)
			for o.pressure() < 0.5 {
				after(every)
			}
			if low, normal := share(0, false), share(1, false); low > 0.6 || normal != 1 {
				t.Errorf("%s: of low %v pass, of normal %v", name, low, normal)
			}
			after(10 * time.Second)
			if low, high, critical := share(0, false), share(2, false), share(2, true); low != 0 || high != 0 || critical != 1 {
				t.Errorf("%s, later: of low %v pass, of high %v, of critical %v", name, low, high, critical)
			}
			now.Store(&reading{})
			after(10 * time.Second)
			if share(0, false) != 1 {
				t.Errorf("%s: requests are turned away when it is over", name)
			}
		}
	})
}

func TestProbe(t *testing.T) {
	probe := newProbe()
	probe()
	for range 20_000_000 {
		_ = time.Duration(1)
	}
	if r := probe(); r.cpu < 0 || r.cpu > 2 || r.memory < 0 || r.delay < 0 {
		t.Errorf("%+v", r)
	}
}

func TestRequestDoesNotAllocate(t *testing.T) {
	s := &shedder{load: &load{}, rank: 1}
	x := exchange.Get()
	if n := testing.AllocsPerRun(100, func() { s.Request(x) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
