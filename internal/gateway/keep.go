package gateway

import "sync"

// keeper holds the live objects that outlast a reload: pools, counters,
// caches. A snapshot asks for them by key while it is compiled; the same key
// gives the same object. When a snapshot goes live, objects that it did not
// ask for are retired; when it is given up, those made for it are.
type keeper struct {
	mu   sync.Mutex // held from begin to commit or discard: one change at a time
	live map[string]any
	next map[string]any
}

// retirer is a live object that wants to know when nobody needs it any more.
type retirer interface{ Retire() }

func (k *keeper) begin() {
	k.mu.Lock()
	k.next = make(map[string]any)
}

// get returns the object of key, made by create when there is none. Only
// between begin and commit or discard.
func (k *keeper) get(key string, create func() (any, error)) (any, error) {
	if v, ok := k.next[key]; ok {
		return v, nil
	}
	v, ok := k.live[key]
	if !ok {
		var err error
		if v, err = create(); err != nil {
			return nil, err
		}
	}
	k.next[key] = v
	return v, nil
}

// commit makes the objects asked for the live ones.
func (k *keeper) commit() { k.swap(k.next, k.live) }

// close retires all that lives.
func (k *keeper) close() {
	k.begin()
	k.commit()
}

// discard forgets what begin started.
func (k *keeper) discard() { k.swap(k.live, k.next) }

// swap keeps one set and retires what only the other has.
func (k *keeper) swap(kept, dropped map[string]any) {
	k.live, k.next = kept, nil
	for key, v := range dropped {
		if _, ok := kept[key]; ok {
			continue
		}
		if r, ok := v.(retirer); ok {
			r.Retire()
		}
	}
	k.mu.Unlock()
}
