package limit

import (
	"sync"
	"sync/atomic"
)

const (
	shards   = 64
	window   = 32 // slots that a key may stand in
	smallest = 64
	shared   = 64 // states for newcomers without room, in each shard
)

// Buckets keeps one number for each key. A key that has all its units back
// needs no slot, so nothing is lost when its slot is used again.
type Buckets struct {
	most   atomic.Int64 // slots of a shard at most, a power of two
	shards [shards]shard
}

type shard struct {
	mu     sync.Mutex
	slots  []slot
	shared [shared]int64
	_      [64]byte // keeps the locks of neighbours on lines of their own
}

type slot struct {
	key uint64
	tat int64 // when all units are back; in the past: the slot is free
}

// NewBuckets makes room for keys keys, at 32 to 64 bytes each. Memory is taken
// as it is needed, and never more.
func NewBuckets(keys int) *Buckets {
	b := new(Buckets)
	b.Room(keys)
	return b
}

// Room changes for how many keys there is room. What is kept stays.
func (b *Buckets) Room(keys int) {
	most := smallest
	for most*shards < 2*keys {
		most *= 2
	}
	b.most.Store(int64(most))
}

// With returns the buckets as a limit. Several rules must not share the same
// keys.
func (b *Buckets) With(r Rule) Limit { return &bucketLimit{r.gcra(), b} }

type bucketLimit struct {
	gcra
	buckets *Buckets
}

func (l *bucketLimit) Take(key uint64, cost, now int64) State {
	s := l.buckets.shard(key)
	s.mu.Lock()
	at := s.find(key, now, int(l.buckets.most.Load()))
	next, state := l.take(*at, cost, now)
	*at = next
	s.mu.Unlock()
	return state
}

func (l *bucketLimit) Give(key uint64, cost, now int64) { l.Charge(key, -cost, now) }

func (l *bucketLimit) Charge(key uint64, cost, now int64) {
	s := l.buckets.shard(key)
	s.mu.Lock()
	at := s.find(key, now, int(l.buckets.most.Load()))
	*at = l.charge(*at, cost, now)
	s.mu.Unlock()
}

func (l *bucketLimit) Keys(now int64) int { return l.buckets.keys(now) }

// Delay puts a unit in line: units of a key are interval apart. It returns how
// long the unit has to wait, or how much too long that would be. A gap that a
// longer interval left counts as one of this.
func (b *Buckets) Delay(key uint64, interval, most, now int64) (wait, over int64) {
	s := b.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.find(key, now, int(b.most.Load()))
	next := min(max(*at, now), now+most+interval)
	if wait = next - now; wait > most {
		*at = next
		return 0, wait - most
	}
	*at = next + interval
	return wait, 0
}

// Until returns the number kept for a key, at least now.
func (b *Buckets) Until(key uint64, now int64) int64 {
	s := b.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.look(key); i >= 0 {
		return max(s.slots[i].tat, now)
	}
	return max(s.shared[key>>32%shared], now)
}

// Extend makes the number kept for a key at least until. A key without a place
// of its own is left out: to remember it with others would hold it against
// them.
func (b *Buckets) Extend(key uint64, until, now int64) {
	s := b.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.find(key, now, int(b.most.Load())); at != s.common(key) {
		*at = max(*at, until)
	}
}

func (b *Buckets) keys(now int64) (n int) {
	for i := range b.shards {
		s := &b.shards[i]
		s.mu.Lock()
		for j := range s.slots {
			if s.slots[j].tat > now {
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}

// Bytes tells how much memory the slots take.
func (b *Buckets) Bytes() (n int) {
	for i := range b.shards {
		s := &b.shards[i]
		s.mu.Lock()
		n += len(s.slots) * 16
		s.mu.Unlock()
	}
	return n
}

// shard uses the top bits of the key, slots the low ones.
func (b *Buckets) shard(key uint64) *shard { return &b.shards[key>>58] }

func (s *shard) common(key uint64) *int64 { return &s.shared[key>>32%shared] }

// look returns the index of the slot that holds a key, or -1. The slots of a
// key are the window that begins where its low bits say.
func (s *shard) look(key uint64) int {
	mask := len(s.slots) - 1
	for i := range min(window, len(s.slots)) {
		if at := (int(key) + i) & mask; s.slots[at].key == key {
			return at
		}
	}
	return -1
}

// find returns where the state of a key is kept: its slot, a free one that
// becomes its own, or a state that it shares.
func (s *shard) find(key uint64, now int64, most int) *int64 {
	for {
		mask, free := len(s.slots)-1, -1
		for i := 0; i < min(window, len(s.slots)); i++ {
			at := (int(key) + i) & mask
			switch slot := &s.slots[at]; {
			case slot.key == key:
				return &slot.tat
			case free < 0 && slot.tat <= now:
				free = at
				fallthrough
			default:
				if slot.tat == 0 && slot.key == 0 {
					// Never used, so no key was ever put further on.
					i = window
				}
			}
		}
		if free >= 0 {
			// What the key did while it had to share is not forgotten.
			s.slots[free] = slot{key, *s.common(key)}
			return &s.slots[free].tat
		}
		if len(s.slots) >= most {
			return s.common(key)
		}
		s.grow(now, most)
	}
}

// grow doubles the slots. The few keys that find no place in their new window
// go on in the shared state, which takes the strictest of theirs.
func (s *shard) grow(now int64, most int) {
	old := s.slots
	s.slots = make([]slot, min(max(2*len(old), smallest), most))
	mask := len(s.slots) - 1
	for _, o := range old {
		if o.tat <= now {
			continue
		}
		placed := false
		for i := range window {
			if at := &s.slots[(int(o.key)+i)&mask]; at.tat <= now {
				*at, placed = o, true
				break
			}
		}
		if c := s.common(o.key); !placed {
			*c = max(*c, o.tat)
		}
	}
}
