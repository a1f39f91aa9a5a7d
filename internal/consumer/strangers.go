package consumer

import (
	"hash/maphash"
	"maps"
	"slices"
	"sync/atomic"

	"gatehouse.dev/gatehouse/internal/password"
)

// strangers are the hashes that passwords of unknown users are compared with:
// one of each cost that hashes of users have, and one of the usual cost while
// there are no users. Nothing matches them.
type strangers struct {
	seed  maphash.Seed
	users map[string]int // by the cost of their hashes; guarded by Index.mu
	list  atomic.Pointer[[]*password.Hash]
}

func newStrangers() *strangers {
	s := &strangers{seed: maphash.MakeSeed(), users: make(map[string]int)}
	s.list.Store(&[]*password.Hash{password.Nobody()})
	return s
}

// find returns what the password of an unknown name is compared with. It is
// always the same one, as that of a user is.
func (s *strangers) find(name string) *password.Hash {
	list := *s.list.Load()
	return list[maphash.String(s.seed, name)%uint64(len(list))]
}

// costs is how a change alters the users by the cost of their hashes.
type costs map[string]*cost

type cost struct {
	users int            // more than before
	hash  *password.Hash // one that costs so much
}

func (c *Change) count(h *password.Hash, users int) {
	name := h.Cost()
	if c.costs[name] == nil {
		if c.costs == nil {
			c.costs = make(costs)
		}
		c.costs[name] = &cost{hash: h}
	}
	c.costs[name].users += users
}

// commit makes the change. Only one does at a time.
func (s *strangers) commit(changes costs) {
	changed := false
	list := make(map[string]*password.Hash)
	for _, h := range *s.list.Load() {
		list[h.Cost()] = h
	}
	if len(s.users) == 0 {
		clear(list) // it was there for want of another
	}
	for name, c := range changes {
		before := s.users[name]
		s.users[name] += c.users
		switch now := s.users[name]; {
		case now <= 0:
			delete(s.users, name)
			delete(list, name)
			changed = changed || before > 0
		case before == 0:
			list[name] = c.hash.Like()
			changed = true
		}
	}
	if !changed {
		return
	}
	if len(list) == 0 {
		h := password.Nobody()
		list[h.Cost()] = h
	}
	next := slices.Collect(maps.Values(list))
	s.list.Store(&next)
}
