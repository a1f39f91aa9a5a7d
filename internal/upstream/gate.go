package upstream

import (
	"container/list"
	"context"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// gate bounds how many exchanges an upstream has at a time. Those beyond it
// wait in the order they came, the important ones first, for a while, if there
// is a queue.
type gate struct {
	most    int // that wait
	timeout time.Duration

	mu      sync.Mutex
	limit   int // 0 means none
	active  int
	waiting [classes]list.List // of *waiter, by class
	queued  int
}

// classes is how many classes of requests there are: important ones, and the
// others.
const classes = 2

type waiter struct {
	granted bool
	ready   chan struct{}
	place   *list.Element
}

// enter waits for a place. It fails x, and returns false, when there is none
// in time. Each enter that succeeded wants its leave.
func (g *gate) enter(x *exchange.Exchange, class int) bool {
	g.mu.Lock()
	if g.queued == 0 && (g.limit == 0 || g.active < g.limit) {
		g.active++
		g.mu.Unlock()
		return true
	}
	if g.queued >= g.most {
		g.mu.Unlock()
		x.Fail(&overloaded)
		return false
	}
	w := &waiter{ready: make(chan struct{})}
	w.place = g.waiting[class].PushBack(w)
	g.queued++
	g.grant()
	g.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), g.timeout)
	defer cancel()
	err := x.Bind(canceler(cancel))
	if err == nil {
		select {
		case <-w.ready:
		case <-ctx.Done():
		}
		err = x.Bind(nil)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err != nil:
		if w.granted {
			g.free()
		} else {
			g.remove(w, class)
		}
		x.Fail(clientGone.With(err))
		return false
	case w.granted:
		return true
	}
	g.remove(w, class)
	x.Fail(&overloaded)
	return false
}

func (g *gate) remove(w *waiter, class int) {
	g.waiting[class].Remove(w.place)
	g.queued--
}

// leave gives a place back.
func (g *gate) leave() {
	g.mu.Lock()
	g.free()
	g.mu.Unlock()
}

func (g *gate) free() {
	g.active--
	g.grant()
}

// grant lets those in who have been waiting for the longest time.
func (g *gate) grant() {
	for class := 0; class < classes && (g.limit == 0 || g.active < g.limit); {
		first := g.waiting[class].Front()
		if first == nil {
			class++
			continue
		}
		w := g.waiting[class].Remove(first).(*waiter)
		g.queued--
		g.active++
		w.granted = true
		close(w.ready)
	}
}

// bound changes the limit.
func (g *gate) bound(limit int) {
	g.mu.Lock()
	g.limit = limit
	g.grant()
	g.mu.Unlock()
}

// load returns how many exchanges are in, how many wait, and the limit.
func (g *gate) load() (active, queued, limit int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.active, g.queued, g.limit
}
