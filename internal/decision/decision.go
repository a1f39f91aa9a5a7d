// Package decision remembers what an outside service decided, for a while and
// within bounds. It knows no service and no request: a key holds all that the
// decision was made from.
package decision

import (
	"sync"
	"time"
)

// Cache keeps decisions by key. The zero Cache keeps none. It is safe for
// concurrent use.
type Cache[T any] struct {
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

// New returns a cache of at most most decisions, each for at most ttl.
func New[T any](most int, ttl time.Duration) *Cache[T] {
	return &Cache[T]{most: max(most/2, 1), ttl: ttl, new: make(map[string]kept[T]), beginning: time.Now()}
}

// Get returns the decision for a key.
func (c *Cache[T]) Get(key string) (value T, ok bool) {
	if c == nil {
		return value, false
	}
	now := time.Since(c.beginning)
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.new[key]
	if !ok {
		if k, ok = c.old[key]; ok && k.until > now {
			c.put(key, k) // what is asked for stays
		}
	}
	if !ok || k.until <= now {
		return value, false
	}
	return k.value, true
}

// Put keeps a decision.
func (c *Cache[T]) Put(key string, value T) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(key, kept[T]{value, time.Since(c.beginning) + c.ttl})
}

func (c *Cache[T]) put(key string, k kept[T]) {
	if len(c.new) >= c.most {
		c.old, c.new = c.new, make(map[string]kept[T])
	}
	c.new[key] = k
}

// Len tells how many decisions are kept.
func (c *Cache[T]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.new) + len(c.old)
}
