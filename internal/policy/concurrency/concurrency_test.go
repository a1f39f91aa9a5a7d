package concurrency

import (
	"sync"
	"testing"
)

// TestPlaces has many goroutines at a few keys: never more than the limit at
// once, and nothing is left in the end.
func TestPlaces(t *testing.T) {
	p := newPlaces()
	const limit = 3
	var mu sync.Mutex
	inside := make(map[uint64]int)
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			for i := range 500 {
				key := uint64((g*7+i)%5) << 57
				ok, w := p.take(key, limit, 4)
				if !ok && w == nil {
					continue
				}
				if !ok {
					if i%3 == 0 {
						if !p.leave(key, w) {
							continue
						}
					} else {
						<-w.ready
					}
				}
				mu.Lock()
				if inside[key]++; inside[key] > limit {
					t.Errorf("%d at once", inside[key])
				}
				mu.Unlock()
				mu.Lock()
				inside[key]--
				mu.Unlock()
				p.give(key, limit)
			}
		})
	}
	all.Wait()
	if n := p.count(); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

// TestLimitChanges: a lowered limit holds once enough places were given back,
// a raised one at the next.
func TestLimitChanges(t *testing.T) {
	p := newPlaces()
	for range 3 {
		if ok, _ := p.take(1, 3, 0); !ok {
			t.Fatal("refused below the limit")
		}
	}
	_, w := p.take(1, 3, 1)
	p.give(1, 2)
	select {
	case <-w.ready:
		t.Fatal("a place was given above the limit")
	default:
	}
	p.give(1, 2)
	<-w.ready
	p.give(1, 2)
	p.give(1, 2)
	if p.count() != 0 {
		t.Error("places are left")
	}
}
