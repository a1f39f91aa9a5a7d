package identify

import (
	"hash/maphash"
	"math/rand/v2"
	"strings"
	"sync/atomic"
)

// ways is how many places a token may stand at.
const ways = 4

// Tokens remembers what was found out about tokens, of which there are V, in a
// fixed number of places, and is read without locks. The hash that leads to a
// place is keyed by a secret of the process, so that nobody can choose tokens
// that drive out those of others, nor learn a token by how long it takes to
// compare.
type Tokens[V any] struct {
	seed  maphash.Seed
	mask  uint64
	slots []atomic.Pointer[remembered[V]]
}

type remembered[V any] struct {
	token string
	hash  uint64
	until int64 // seconds since 1970
	value *V
}

// NewTokens returns an empty memory of at least so many tokens.
func NewTokens[V any](entries int) *Tokens[V] {
	sets := uint64(1)
	for sets*ways < uint64(entries) {
		sets *= 2
	}
	return &Tokens[V]{seed: maphash.MakeSeed(), mask: sets - 1, slots: make([]atomic.Pointer[remembered[V]], sets*ways)}
}

// Get returns what is remembered of a token, nil when it is nothing or no
// longer good. now is in seconds since 1970.
func (c *Tokens[V]) Get(token string, now int64) *V {
	if c == nil {
		return nil
	}
	h := maphash.String(c.seed, token)
	set := c.set(h)
	for i := range set {
		if r := set[i].Load(); r != nil && r.hash == h && r.token == token {
			if now >= r.until {
				return nil
			}
			return r.value
		}
	}
	return nil
}

func (c *Tokens[V]) set(h uint64) []atomic.Pointer[remembered[V]] {
	i := (h & c.mask) * ways
	return c.slots[i : i+ways]
}

// Put remembers a value: in an empty place, or in that of one that is no
// longer good, or in any.
func (c *Tokens[V]) Put(token string, value *V, now, until int64) {
	if c == nil || now >= until {
		return
	}
	// Where the token came from may be a part of a whole head, which is not to
	// stay for it.
	token = strings.Clone(token)
	h := maphash.String(c.seed, token)
	set := c.set(h)
	at := int(rand.Uint32N(ways))
	for i := range set {
		if o := set[i].Load(); o == nil || now >= o.until || o.token == token {
			at = i
			break
		}
	}
	set[at].Store(&remembered[V]{token, h, until, value})
}
