package limit

import (
	"sync"
	"time"
)

// MostInWindow is the largest count of an exact window: each unit is
// remembered by itself.
const MostInWindow = 10_000

// commonWindows is how many states newcomers without room share.
const commonWindows = 256

// NewWindows returns the limit that in no time of r.Per more than r.Count units
// pass, whenever that time begins. It remembers when each unit was taken, in at
// most bytes bytes for all keys together.
func NewWindows(r Rule, bytes int) Limit {
	w := &windows{count: int(r.Count), per: int64(r.Per)}
	most := 4
	for most < w.count {
		most *= 2
	}
	w.most = max(bytes/shards/(ringBytes+8*most), 1)
	w.common = make([]ring, commonWindows)
	return w
}

type windows struct {
	count  int
	per    int64
	most   int // keys of a shard: there is room for all their times
	shards [shards]windowShard

	mu     sync.Mutex
	common []ring // shared by newcomers without room, so that a flood cannot buy itself a fresh start
}

type windowShard struct {
	mu    sync.Mutex
	keys  map[uint64]*ring
	swept int64 // when all keys were last looked at
	_     [64]byte
}

// ring holds the times of a key's units, oldest first.
type ring struct {
	times []int64 // a power of two of them
	first int
	n     int
}

// What a key costs beside its times: the entry of the map and the ring itself.
const ringBytes = 96

func (r *ring) at(i int) int64 { return r.times[(r.first+i)&(len(r.times)-1)] }
func (r *ring) newest() int64  { return r.at(r.n - 1) }

// expire forgets the times that have left the window.
func (r *ring) expire(now, per int64) {
	for r.n > 0 && r.at(0)+per <= now {
		r.first = (r.first + 1) & (len(r.times) - 1)
		r.n--
	}
}

func (r *ring) push(t int64) {
	if r.n == len(r.times) {
		more := make([]int64, max(4, 2*len(r.times)))
		for i := range r.n {
			more[i] = r.at(i)
		}
		r.times, r.first = more, 0
	}
	r.times[(r.first+r.n)&(len(r.times)-1)] = t
	r.n++
}

func (w *windows) Take(key uint64, cost, now int64) State {
	return w.with(key, now, func(r *ring) State {
		// Times do not go back within a ring, even when two callers read the
		// clock in the other order.
		t := now
		if r.n > 0 {
			t = max(t, r.newest())
		}
		if cost > int64(w.count-r.n) {
			return w.refuse(r, cost, now)
		}
		for range cost {
			r.push(t)
		}
		return w.state(r, now)
	})
}

func (w *windows) state(r *ring, now int64) State {
	s := State{OK: true, Remaining: int64(max(w.count-r.n, 0))}
	if r.n > 0 {
		s.Reset = time.Duration(r.newest() + w.per - now)
	}
	return s
}

func (w *windows) refuse(r *ring, cost, now int64) State {
	s := w.state(r, now)
	s.OK, s.Retry = false, Never
	if cost <= int64(w.count) {
		// So many of the oldest have to leave first.
		s.Retry = time.Duration(r.at(r.n+int(cost)-w.count-1) + w.per - now)
	}
	return s
}

func (w *windows) Give(key uint64, cost, now int64) {
	w.with(key, now, func(r *ring) State {
		r.n = max(r.n-int(min(cost, MostInWindow)), 0)
		return State{}
	})
}

func (w *windows) Charge(key uint64, cost, now int64) {
	w.with(key, now, func(r *ring) State {
		for range min(cost, int64(max(2*w.count-r.n, 0))) {
			r.push(now)
		}
		return State{}
	})
}

func (w *windows) Keys(now int64) (n int) {
	for i := range w.shards {
		s := &w.shards[i]
		s.mu.Lock()
		for _, r := range s.keys {
			if r.n > 0 && r.newest()+w.per > now {
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}

// with calls f with the ring of a key, which has forgotten what is past.
func (w *windows) with(key uint64, now int64, f func(*ring) State) State {
	s := &w.shards[key>>58]
	s.mu.Lock()
	if r := s.ring(key, now, w); r != nil {
		r.expire(now, w.per)
		state := f(r)
		s.mu.Unlock()
		return state
	}
	s.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &w.common[key%commonWindows]
	r.expire(now, w.per)
	return f(r)
}

// ring returns the ring of a key, nil when there is no room for another.
func (s *windowShard) ring(key uint64, now int64, w *windows) *ring {
	if r := s.keys[key]; r != nil {
		return r
	}
	if len(s.keys) >= w.most && !s.sweep(now, w.per) {
		return nil
	}
	if s.keys == nil {
		s.keys = make(map[uint64]*ring)
	}
	few := 0
	for k, r := range s.keys { // a few at a time, so that quiet keys leave without a sweep
		if few++; few > 4 {
			break
		}
		s.drop(k, r, now, w.per)
	}
	r := new(ring)
	s.keys[key] = r
	return r
}

func (s *windowShard) drop(key uint64, r *ring, now, per int64) {
	if r.n == 0 || r.newest()+per <= now {
		delete(s.keys, key)
	}
}

// sweep looks at all keys, at most once in an eighth of the window, and reports
// whether there is room again.
func (s *windowShard) sweep(now, per int64) bool {
	if now-s.swept < per/8 {
		return false
	}
	s.swept = now
	before := len(s.keys)
	for k, r := range s.keys {
		s.drop(k, r, now, per)
	}
	return len(s.keys) < before
}
