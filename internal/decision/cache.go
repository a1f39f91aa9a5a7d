package decision

import (
	"sync"
	"time"
)

// largestKept is the largest decision in bytes that is remembered, so that a
// number of them bounds memory too.
const largestKept = 8 << 10

func (v *Verdict) size() int {
	n := len(v.Body)
	for _, name := range v.Remove {
		n += len(name)
	}
	for _, f := range v.Request {
		n += len(f.Name) + len(f.Value)
	}
	for _, f := range v.Answer {
		n += len(f.Name) + len(f.Value)
	}
	return n
}

// cache keeps decisions by key. A nil cache keeps none. It is safe for
// concurrent use.
type cache[T any] struct {
	most int
	ttl  time.Duration

	mu        sync.Mutex
	new, old  map[string]kept[T] // when new is full it becomes old, and old is forgotten
	beginning time.Time
}

type kept[T any] struct {
	value T
	until time.Duration // since beginning
}

// newCache returns a cache of at most most decisions, each for at most ttl.
func newCache[T any](most int, ttl time.Duration) *cache[T] {
	return &cache[T]{most: max(most/2, 1), ttl: ttl, new: make(map[string]kept[T]), beginning: time.Now()}
}

// get returns the decision for a key.
func (c *cache[T]) get(key string) (value T, ok bool) {
	if c == nil {
		return value, false
	}
	now := time.Since(c.beginning)
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.new[key]
	if !ok {
		if k, ok = c.old[key]; ok && k.until > now {
			c.keep(key, k) // what is asked for stays
		}
	}
	if !ok || k.until <= now {
		return value, false
	}
	return k.value, true
}

// put keeps a decision.
func (c *cache[T]) put(key string, value T) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(key, kept[T]{value, time.Since(c.beginning) + c.ttl})
}

func (c *cache[T]) keep(key string, k kept[T]) {
	if len(c.new) >= c.most {
		c.old, c.new = c.new, make(map[string]kept[T])
	}
	c.new[key] = k
}

// len tells how many decisions are kept.
func (c *cache[T]) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.new) + len(c.old)
}
