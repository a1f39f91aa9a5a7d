package limit

import (
	"sync"
	"sync/atomic"
	"time"
)

// MostInWindow is the largest count of an exact window: each unit is
// remembered by itself.
const MostInWindow = 10_000

// commonWindows is how many states newcomers without room share.
const commonWindows = 256

// Windows remembers when each unit of a key was taken.
type Windows struct {
	bytes  atomic.Int64 // of a shard
	shards [shards]windowShard

	mu     sync.Mutex
	common []ring       // shared by newcomers without room, so that a flood cannot buy itself a fresh start
	lent   atomic.Int64 // until when any of them matters
}

// NewWindows makes room in at most bytes bytes for all keys together; debts may
// take as much again.
func NewWindows(bytes int) *Windows {
	w := &Windows{common: make([]ring, commonWindows)}
	w.Room(bytes)
	return w
}

// Room changes the ceiling of the memory. What is remembered stays.
func (w *Windows) Room(bytes int) { w.bytes.Store(int64(bytes / shards)) }

// With returns the windows as a limit: in no time of r.Per more than r.Count
// units pass, whenever that time begins. Several rules must not share the same
// keys, but one may follow the other.
func (w *Windows) With(r Rule) Limit {
	l := &windowLimit{count: int(r.Count), per: int64(r.Per), largest: 4, Windows: w}
	for l.largest < l.count {
		l.largest *= 2
	}
	return l
}

type windowLimit struct {
	*Windows
	count   int
	per     int64
	largest int // times of a key, as a ring holds them
}

// most is how many keys a shard has room for, with all their times.
func (w *windowLimit) most() int { return max(int(w.bytes.Load())/(ringBytes+8*w.largest), 1) }

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

func (w *windowLimit) Take(key uint64, cost, now int64) State {
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

func (w *windowLimit) state(r *ring, now int64) State {
	s := State{OK: true, Remaining: int64(max(w.count-r.n, 0))}
	if r.n > 0 {
		s.Reset = time.Duration(r.newest() + w.per - now)
	}
	return s
}

func (w *windowLimit) refuse(r *ring, cost, now int64) State {
	s := w.state(r, now)
	s.OK, s.Retry = false, Never
	if cost <= int64(w.count) {
		// So many of the oldest have to leave first.
		s.Retry = time.Duration(r.at(r.n+int(cost)-w.count-1) + w.per - now)
	}
	return s
}

func (w *windowLimit) Give(key uint64, cost, now int64) {
	w.with(key, now, func(r *ring) State {
		r.n = max(r.n-int(min(cost, MostInWindow)), 0)
		return State{}
	})
}

func (w *windowLimit) Charge(key uint64, cost, now int64) {
	w.with(key, now, func(r *ring) State {
		for range min(cost, int64(max(2*w.count-r.n, 0))) {
			r.push(now)
		}
		return State{}
	})
}

func (w *windowLimit) Keys(now int64) (n int) {
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
func (w *windowLimit) with(key uint64, now int64, f func(*ring) State) State {
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
	state := f(r)
	if r.n > 0 {
		w.lent.Store(max(w.lent.Load(), r.newest()+w.per))
	}
	return state
}

// inherit gives a new ring what its key may have used while it had to share.
func (w *windowLimit) inherit(key uint64, to *ring, now int64) {
	if w.lent.Load() <= now {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	from := &w.common[key%commonWindows]
	from.expire(now, w.per)
	for i := range from.n {
		to.push(from.at(i))
	}
}

// ring returns the ring of a key, nil when there is no room for another.
func (s *windowShard) ring(key uint64, now int64, w *windowLimit) *ring {
	if r := s.keys[key]; r != nil {
		return r
	}
	if len(s.keys) >= w.most() && !s.sweep(now, w.per) {
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
	w.inherit(key, r, now)
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
