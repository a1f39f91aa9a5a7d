package limit

import (
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = int64(time.Second)

func gcraLimit(count int64, per time.Duration, burst int64, keys int) Limit {
	return NewBuckets(keys).With(Rule{count, per, burst})
}

// exact is a window without bounds of memory.
func exact(count int64, per time.Duration) Limit {
	return NewWindows(64 << 20).With(Rule{Count: count, Per: per})
}

func TestGCRA(t *testing.T) {
	l := gcraLimit(60, time.Minute, 3, 1000)
	now := 1000 * second
	for i, c := range []struct {
		after time.Duration
		cost  int64
		want  State
	}{
		{0, 1, State{true, 2, time.Second, 0}},
		{0, 1, State{true, 1, 2 * time.Second, 0}},
		{0, 1, State{true, 0, 3 * time.Second, 0}},
		{0, 1, State{false, 0, 3 * time.Second, time.Second}},
		{999 * time.Millisecond, 1, State{false, 0, 2001 * time.Millisecond, time.Millisecond}},
		{time.Millisecond, 1, State{true, 0, 3 * time.Second, 0}},
		{time.Second, 2, State{false, 1, 2 * time.Second, time.Second}},
		{0, 1, State{true, 0, 3 * time.Second, 0}},
		{time.Hour, 3, State{true, 0, 3 * time.Second, 0}},
		{time.Hour, 4, State{false, 3, 0, Never}},
		{0, 0, State{true, 3, 0, 0}},
	} {
		now += int64(c.after)
		if got := l.Take(1, c.cost, now); got != c.want {
			t.Errorf("step %d: %+v, want %+v", i, got, c.want)
		}
	}
	l.Take(2, 3, now)
	l.Give(2, 1, now)
	if s := l.Take(2, 1, now); !s.OK || s.Remaining != 0 {
		t.Errorf("after giving back: %+v", s)
	}
	l.Charge(2, 2, now)
	if s := l.Take(2, 1, now); s.OK || s.Retry != 3*time.Second {
		t.Errorf("after a charge: %+v", s)
	}
}

func TestWindow(t *testing.T) {
	l := exact(3, 10*time.Second)
	now := 1000 * second
	for i, c := range []struct {
		after time.Duration
		cost  int64
		want  State
	}{
		{0, 1, State{true, 2, 10 * time.Second, 0}},
		{4 * time.Second, 2, State{true, 0, 10 * time.Second, 0}},
		{time.Second, 1, State{false, 0, 9 * time.Second, 5 * time.Second}},
		{0, 2, State{false, 0, 9 * time.Second, 9 * time.Second}},
		{0, 4, State{false, 0, 9 * time.Second, Never}},
		{5 * time.Second, 1, State{true, 0, 10 * time.Second, 0}},
		{10 * time.Second, 3, State{true, 0, 10 * time.Second, 0}},
	} {
		now += int64(c.after)
		if got := l.Take(1, c.cost, now); got != c.want {
			t.Errorf("step %d: %+v, want %+v", i, got, c.want)
		}
	}
	l.Give(1, 1, now)
	if s := l.Take(1, 1, now); !s.OK {
		t.Errorf("after giving back: %+v", s)
	}
	l.Charge(1, 1, now)
	if s := l.Take(1, 1, now+10*second-1); s.OK {
		t.Errorf("after a charge: %+v", s)
	}
}

// TestExact compares both limits with a model that remembers everything.
func TestExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.Int64Range(1, 20).Draw(t, "count")
		per := time.Duration(rapid.Int64Range(1, 60).Draw(t, "per")) * time.Second
		burst := rapid.Int64Range(1, 20).Draw(t, "burst")
		window, bucket := exact(count, per), gcraLimit(count, per, burst, 1000)
		interval := (int64(per) + count - 1) / count
		now := second
		var inWindow, inBucket []int64
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += rapid.Int64Range(0, int64(per)/2).Draw(t, "wait")
			inWindow = slices.DeleteFunc(inWindow, func(at int64) bool { return at+int64(per) <= now })
			if got, want := window.Take(1, 1, now).OK, int64(len(inWindow)) < count; got != want {
				t.Fatalf("window: %v, want %v", got, want)
			} else if got {
				inWindow = append(inWindow, now)
			}
			if got := bucket.Take(1, 1, now); got.OK {
				inBucket = append(inBucket, now)
			} else if again := bucket.Take(1, 1, now+int64(got.Retry)); !again.OK {
				t.Fatalf("refused at the end of Retry: %+v", again)
			} else {
				bucket.Give(1, 1, now+int64(got.Retry))
			}
		}
		// Between any two moments pass no more than the burst and what came
		// back in between.
		for i := range inBucket {
			for j := i; j < len(inBucket); j++ {
				if n, most := int64(j-i+1), burst+(inBucket[j]-inBucket[i])/interval; n > most {
					t.Fatalf("%d units passed where %d may", n, most)
				}
			}
		}
	})
}

// TestConcurrent has many goroutines at one key: not one unit too many passes,
// and not one too few.
func TestConcurrent(t *testing.T) {
	for name, l := range map[string]Limit{"gcra": gcraLimit(1000, time.Hour, 1000, 100), "window": exact(1000, time.Hour)} {
		var passed atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 500 {
					if l.Take(42, 1, second).OK {
						passed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if passed.Load() != 1000 {
			t.Errorf("%s: %d passed", name, passed.Load())
		}
	}
}

// TestFlood sends a million keys. Memory stays within its ceiling, and a key
// that has used its limit up stays refused.
func TestFlood(t *testing.T) {
	seed := maphash.MakeSeed()
	key := func(i int) uint64 { return maphash.Comparable(seed, i) }
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for name, c := range map[string]struct {
		limit Limit
		most  uint64
	}{
		"gcra":   {gcraLimit(10, time.Hour, 10, 1<<17), 1<<17*64 + 1<<20},
		"window": {NewWindows(8 << 20).With(Rule{Count: 10, Per: time.Hour}), 12 << 20},
	} {
		before := heap()
		now := second
		for range 10 {
			if !c.limit.Take(key(-1), 1, now).OK {
				t.Fatal("refused too early")
			}
		}
		passed := 0
		for i := range 1_000_000 {
			now += 1000
			if c.limit.Take(key(i), 1, now).OK {
				passed++
			}
		}
		if c.limit.Take(key(-1), 1, now).OK {
			t.Errorf("%s: a flood made the limit forget a key", name)
		}
		if after := heap(); after > before+c.most {
			t.Errorf("%s: %d bytes more than before the flood, at most %d", name, after-before, c.most)
		}
		if passed == 1_000_000 {
			t.Errorf("%s: every key of the flood got state of its own", name)
		}
		if c.limit.Keys(now+int64(3*time.Hour)) != 0 {
			t.Errorf("%s: keys are remembered for too long", name)
		}
		runtime.KeepAlive(c.limit)
	}
}

// TestRoom finds state for every key as long as there is room.
func TestRoom(t *testing.T) {
	seed := maphash.MakeSeed()
	l := gcraLimit(1, time.Hour, 1, 1<<16)
	for i := range 1 << 15 {
		if !l.Take(maphash.Comparable(seed, i), 1, second).OK {
			t.Fatalf("key %d shares its state", i)
		}
	}
	if n := l.Keys(second); n != 1<<15 {
		t.Errorf("%d keys", n)
	}
	for i := range 1 << 15 {
		if l.Take(maphash.Comparable(seed, i), 1, second).OK {
			t.Fatalf("key %d was forgotten", i)
		}
	}
}

// TestSlotsAreUsedAgain runs far more keys than there are slots, few at a time.
func TestSlotsAreUsedAgain(t *testing.T) {
	b := NewBuckets(1 << 12)
	l := b.With(Rule{10, time.Second, 10})
	seed := maphash.MakeSeed()
	now := second
	for i := range 1_000_000 {
		now += int64(time.Millisecond)
		if s := l.Take(maphash.Comparable(seed, i), 1, now); !s.OK || s.Remaining != 9 {
			t.Fatalf("key %d: %+v", i, s)
		}
	}
	if b.Bytes() > 1<<12*64 {
		t.Errorf("%d bytes", b.Bytes())
	}
}

func TestRuleChanges(t *testing.T) {
	b := NewBuckets(1000)
	day := b.With(Rule{10, 24 * time.Hour, 10})
	day.Charge(1, 10, second)
	if s := b.With(Rule{60, time.Minute, 60}).Take(1, 1, second+1); s.OK || s.Retry > time.Minute+time.Second {
		t.Errorf("what was used up under a rule of days is held against one of minutes: %+v", s)
	}
}

// TestDebt: what was charged over the limit is paid back before anything passes,
// also when the key is looked at and refused meanwhile.
func TestDebt(t *testing.T) {
	for name, l := range map[string]Limit{"gcra": gcraLimit(10, 10*time.Second, 10, 1000), "window": exact(10, 10*time.Second)} {
		now := second
		l.Charge(1, 20, now)
		for i := range 10 {
			if l.Take(1, 0, now).Remaining > 0 {
				t.Errorf("%s: something remains of a debt", name)
			}
			if s := l.Take(1, 1, now+int64(i)*second); s.OK {
				t.Errorf("%s: a key in debt passes after %d s", name, i)
			}
		}
	}
	l := gcraLimit(10, 10*time.Second, 10, 1000)
	l.Charge(1, 20, second)
	if s := l.Take(1, 1, second); s.OK || s.Retry != 11*time.Second {
		t.Errorf("in debt by a whole limit: %+v", s)
	} else if s := l.Take(1, 1, second+int64(s.Retry)); !s.OK {
		t.Errorf("refused at the end of Retry: %+v", s)
	}
}

// TestSharedUseIsKept: what a newcomer used while there was no room for it
// counts when it gets state of its own.
func TestSharedUseIsKept(t *testing.T) {
	seed := maphash.MakeSeed()
	for name, l := range map[string]Limit{
		"gcra":   gcraLimit(3, time.Minute, 3, 1),
		"window": NewWindows(1).With(Rule{Count: 3, Per: time.Minute}),
	} {
		flood := func(now int64) {
			for i := range 10_000 {
				l.Take(maphash.Comparable(seed, i), 1, now)
			}
		}
		flood(second)
		late := maphash.Comparable(seed, -1)
		now := 40 * second // those of the flood have 21 s left, the newcomer has 60
		passed := 0
		for range 10 {
			if l.Take(late, 1, now).OK {
				passed++
			}
		}
		for range 30 { // until there is room, and the newcomer finds it
			now += second
			if l.Take(late, 1, now).OK {
				passed++
			}
		}
		if most := map[string]int{"gcra": 3 + 1, "window": 3}[name]; passed > most {
			t.Errorf("%s: %d passed where %d may", name, passed, most)
		}
	}
}

// TestWindowChanges: a window whose rule or room changes goes on from what was
// used.
func TestWindowChanges(t *testing.T) {
	w := NewWindows(1 << 20)
	w.With(Rule{Count: 3, Per: time.Minute}).Charge(1, 3, second)
	w.Room(1)
	l := w.With(Rule{Count: 5, Per: time.Hour})
	if s := l.Take(1, 2, 2*second); !s.OK || s.Remaining != 0 {
		t.Errorf("%+v", s)
	}
	if s := w.With(Rule{Count: 2, Per: time.Minute}).Take(1, 1, 3*second); s.OK || s.Retry != 59*time.Second {
		t.Errorf("lowered: %+v", s)
	}
	if s := w.With(Rule{Count: 2, Per: time.Minute}).Take(2, 1, 3*second); !s.OK {
		t.Errorf("another key: %+v", s)
	}
	b := NewBuckets(1000)
	b.With(Rule{3, time.Minute, 3}).Charge(1, 3, second)
	b.Room(100_000)
	if s := b.With(Rule{3, time.Minute, 3}).Take(1, 1, second); s.OK {
		t.Errorf("more room made a bucket forget: %+v", s)
	}
}

func TestUntil(t *testing.T) {
	b := NewBuckets(100)
	b.Extend(7, 5*second, second)
	b.Extend(7, 4*second, second)
	if b.Until(7, second) != 5*second || b.Until(8, second) != second || b.Until(7, 6*second) != 6*second {
		t.Error("Until does not tell what Extend kept")
	}
}

func TestFits(t *testing.T) {
	for r, want := range map[Rule]bool{
		{100, time.Minute, 20}:              true,
		{1_000_000, time.Second, 1_000_000}: true,
		{2_000_000, time.Second, 1}:         false,
		{1, 24 * time.Hour, 400}:            true,
		{1, 24 * time.Hour, 401}:            false,
		{0, time.Hour, 1}:                   false,
		{1, time.Hour, 0}:                   false,
		{1, 24 * time.Hour, 1 << 62}:        false,
	} {
		if r.Fits() != want {
			t.Errorf("%+v: %v", r, !want)
		}
	}
}

func TestPlainPathDoesNotAllocate(t *testing.T) {
	for name, l := range map[string]Limit{"gcra": gcraLimit(1e6, time.Second, 1e6, 1000), "window": exact(10_000, time.Second)} {
		now := second
		l.Charge(1, 10_000, now)
		if n := testing.AllocsPerRun(1000, func() { now += 1e6; l.Take(1, 1, now) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkTake(b *testing.B) {
	for name, l := range map[string]Limit{"gcra": gcraLimit(1e6, time.Second, 1e6, 1<<20), "window": exact(1000, time.Second)} {
		b.Run(name+"/one key", func(b *testing.B) {
			b.ReportAllocs()
			now := second
			for b.Loop() {
				now += 1000
				l.Take(1, 1, now)
			}
		})
		keys := make([]uint64, 1<<14)
		for i := range keys {
			keys[i] = rand.Uint64()
		}
		b.Run(name+"/many keys", func(b *testing.B) {
			b.ReportAllocs()
			now := second
			i := 0
			for b.Loop() {
				now += 1000
				i++
				l.Take(keys[i&(len(keys)-1)], 1, now)
			}
		})
	}
}
