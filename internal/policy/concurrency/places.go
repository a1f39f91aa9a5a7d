package concurrency

import (
	"slices"
	"sync"
)

const shards = 64

// places counts the requests in flight of each key. A key that has none takes
// no memory, so there are never more keys than requests in flight.
type places struct{ shards [shards]shard }

type shard struct {
	mu   sync.Mutex
	keys map[uint64]*line
	idle []*line // memory of keys that have none, for the next ones
}

type line struct {
	taken   int
	waiting []*waiter // first come, first served
}

// waiter stands in line. ready is closed when it has been given a place.
type waiter struct {
	ready chan struct{}
	has   bool
}

const mostIdle = 128

func newPlaces() *places {
	p := new(places)
	for i := range p.shards {
		p.shards[i].keys = make(map[uint64]*line)
	}
	return p
}

// take takes a place, or a place in line, or neither.
func (p *places) take(key uint64, limit, queue int) (ok bool, w *waiter) {
	s := &p.shards[key>>58]
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.keys[key]
	if l == nil {
		if n := len(s.idle); n > 0 {
			l, s.idle = s.idle[n-1], s.idle[:n-1]
		} else {
			l = new(line)
		}
		s.keys[key] = l
	}
	switch {
	case l.taken < limit && len(l.waiting) == 0:
		l.taken++
		return true, nil
	case len(l.waiting) < queue:
		w = &waiter{ready: make(chan struct{})}
		l.waiting = append(l.waiting, w)
	}
	return false, w
}

// give gives a place back, to the first in line if there is one. With a limit
// that was lowered meanwhile, places are taken away until it holds.
func (p *places) give(key uint64, limit int) {
	s := &p.shards[key>>58]
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.keys[key]
	l.taken--
	for l.taken < limit && len(l.waiting) > 0 {
		w := l.waiting[0]
		l.waiting = slices.Delete(l.waiting, 0, 1)
		l.taken++
		w.has = true
		close(w.ready)
	}
	s.forget(key, l)
}

// leave takes a waiter out of the line. It reports whether the waiter had been
// given a place before.
func (p *places) leave(key uint64, w *waiter) (has bool) {
	s := &p.shards[key>>58]
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.has {
		return true
	}
	l := s.keys[key]
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	s.forget(key, l)
	return false
}

func (s *shard) forget(key uint64, l *line) {
	if l.taken > 0 || len(l.waiting) > 0 {
		return
	}
	delete(s.keys, key)
	if len(s.idle) < mostIdle {
		s.idle = append(s.idle, l)
	}
}

// count tells how many keys have requests in flight.
func (p *places) count() (n int) {
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		n += len(s.keys)
		s.mu.Unlock()
	}
	return n
}
