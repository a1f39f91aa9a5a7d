package jwt

import (
	"hash/maphash"
	"math/rand/v2"
	"sync/atomic"

	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/jose"
)

// verified is a token that has been verified, and what it says. Nothing writes
// to it.
type verified struct {
	token   string
	hash    uint64
	until   int64     // seconds since 1970
	key     *jose.Key // what it says is void once the key is gone
	issuer  string
	subject string
	scopes  []string
	groups  []string
	claims  map[string]any
	cnf     identify.Confirmation
}

// ways is how many places a token may stand at.
const ways = 4

// cache remembers verified tokens in a fixed number of places and is read
// without locks. The hash that leads to a place is keyed by a secret of the
// process, so that nobody can choose tokens that drive out those of others, nor
// learn a token by how long it takes to compare.
type cache struct {
	seed  maphash.Seed
	mask  uint64
	slots []atomic.Pointer[verified]
}

func newCache(entries int) *cache {
	sets := uint64(1)
	for sets*ways < uint64(entries) {
		sets *= 2
	}
	return &cache{seed: maphash.MakeSeed(), mask: sets - 1, slots: make([]atomic.Pointer[verified], sets*ways)}
}

// get returns what is remembered of a token, nil when it is nothing or no
// longer valid.
func (c *cache) get(token string, now int64) *verified {
	if c == nil {
		return nil
	}
	h := maphash.String(c.seed, token)
	set := c.set(h)
	for i := range set {
		if v := set[i].Load(); v != nil && v.hash == h && v.token == token {
			if now >= v.until || v.key.Gone() {
				set[i].CompareAndSwap(v, nil)
				return nil
			}
			return v
		}
	}
	return nil
}

func (c *cache) set(h uint64) []atomic.Pointer[verified] {
	i := (h & c.mask) * ways
	return c.slots[i : i+ways]
}

// put remembers a token: in an empty place, or in that of one that is no
// longer valid, or in any.
func (c *cache) put(v *verified, now int64) {
	if c == nil {
		return
	}
	v.hash = maphash.String(c.seed, v.token)
	set := c.set(v.hash)
	at := int(rand.Uint32N(ways))
	for i := range set {
		if o := set[i].Load(); o == nil || now >= o.until || o.key.Gone() || o.token == v.token {
			at = i
			break
		}
	}
	set[at].Store(v)
}
