package observe

import (
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"
)

// mostShards bounds the memory of counters on machines with very many cores.
const mostShards = 64

// shardCount returns how many parts counters are spread over: a power of two,
// at least twice the number of goroutines that run at once, so that two of
// them seldom meet.
func shardCount() int {
	n := 2 * runtime.GOMAXPROCS(0)
	return min(1<<bits.Len(uint(n-1)), mostShards)
}

// sharded is a set of counters in several copies. A copy comes into being
// when it is first written, so that what is never used costs nearly nothing.
type sharded[T any] struct {
	parts []atomic.Pointer[T] // as many as a power of two
}

func newSharded[T any]() sharded[T] {
	return sharded[T]{make([]atomic.Pointer[T], shardCount())}
}

// at returns the copy of a shard. Any number is one.
func (s *sharded[T]) at(shard uint32) *T {
	p := &s.parts[shard&uint32(len(s.parts)-1)]
	if t := p.Load(); t != nil {
		return t
	}
	p.CompareAndSwap(nil, new(T))
	return p.Load()
}

// each calls f with every copy that was written.
func (s *sharded[T]) each(f func(*T)) {
	for i := range s.parts {
		if t := s.parts[i].Load(); t != nil {
			f(t)
		}
	}
}

// durationBounds are the upper bounds of a histogram's buckets, with a last
// bucket for what is longer.
var durationBounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
	5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// durations is one copy of a histogram.
type durations struct {
	buckets [len(durationBounds) + 1]atomic.Uint64
	sum     atomic.Int64 // nanoseconds
}

func (h *durations) observe(d time.Duration) {
	i := 0
	for i < len(durationBounds) && d > durationBounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

// totals is the sum of a histogram's copies.
type totals struct {
	buckets [len(durationBounds) + 1]uint64
	sum     int64
}

func (t *totals) add(h *durations) {
	for i := range h.buckets {
		t.buckets[i] += h.buckets[i].Load()
	}
	t.sum += h.sum.Load()
}
