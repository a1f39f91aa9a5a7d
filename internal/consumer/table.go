package consumer

import (
	"sync"
	"sync/atomic"
)

// shards is how many parts a table has. With a million entries one has about a
// thousand, which is what a change copies.
const shards = 1 << 10

// table is a map that is read without locks and changed one entry at a time.
// Each of its shards is an open-addressed hash table that is never written: a
// change replaces it by a copy.
type table[K comparable] struct {
	hash  func(K) uint64
	equal func(a, b K) bool
	mu    sync.Mutex // one change at a time
	parts [shards]atomic.Pointer[part[K]]
}

type part[K comparable] struct {
	slots []slot[K] // a power of two of them, at most half in use
	used  int
}

type slot[K comparable] struct {
	hash uint64
	node *node[K]
}

type node[K comparable] struct {
	key   K
	value Credential
}

// find returns the entry of a key, or nil.
func (t *table[K]) find(key K) *Credential {
	h := t.hash(key)
	p := t.parts[h>>54].Load()
	if p == nil {
		return nil
	}
	mask := uint64(len(p.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		s := &p.slots[i]
		if s.node == nil {
			return nil
		}
		if s.hash == h && t.equal(s.node.key, key) {
			return &s.node.value
		}
	}
}

// change is what becomes of one key: an entry, or none.
type change[K comparable] struct {
	key   K
	value *Credential // nil: the key goes
}

// apply makes several changes. Every shard is copied at most once; readers see
// a shard before or after all of its changes.
func (t *table[K]) apply(changes []change[K]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(changes) == 1 { // the common change needs no lists
		h := t.hash(changes[0].key)
		t.parts[h>>54].Store(t.parts[h>>54].Load().with(t, changes))
		return
	}
	var by [shards][]change[K]
	for _, c := range changes {
		i := t.hash(c.key) >> 54
		by[i] = append(by[i], c)
	}
	for i, list := range by {
		if list != nil {
			t.parts[i].Store(t.parts[i].Load().with(t, list))
		}
	}
}

// with returns a copy of a part with changes made to it.
func (p *part[K]) with(t *table[K], changes []change[K]) *part[K] {
	have := 0
	if p != nil {
		have = p.used
	}
	size := 8
	for size < 2*(have+len(changes)) {
		size *= 2
	}
	out := &part[K]{slots: make([]slot[K], size)}
	// Entries are told by their hashes where that is enough: to look at each
	// one's key would be a wait for memory a time.
	last := make(map[K]int, len(changes)) // of several changes to one key the last holds
	gone := make(map[uint64]bool, len(changes))
	for i := range changes {
		last[changes[i].key] = i
		gone[t.hash(changes[i].key)] = true
	}
	if p != nil {
		for _, s := range p.slots {
			if s.node == nil {
				continue
			}
			if gone[s.hash] {
				if _, changed := last[s.node.key]; changed {
					continue
				}
			}
			out.put(s)
		}
	}
	for i := range changes {
		if c := &changes[i]; c.value != nil && last[c.key] == i {
			out.put(slot[K]{t.hash(c.key), &node[K]{c.key, *c.value}})
		}
	}
	if out.used == 0 {
		return nil
	}
	return out
}

func (p *part[K]) put(s slot[K]) {
	mask := uint64(len(p.slots) - 1)
	i := s.hash & mask
	for p.slots[i].node != nil {
		i = (i + 1) & mask
	}
	p.slots[i] = s
	p.used++
}
