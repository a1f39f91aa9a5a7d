package wire

import (
	"sync"
	"sync/atomic"
	"time"
)

// Tick is how often the sweeper looks at its connections.
const Tick = 100 * time.Millisecond

// shards spreads opening and closing of connections over several locks.
const shards = 16

// Sweeper keeps the deadlines of all connections with one goroutine instead of
// a timer each, and polls the watched ones. It also keeps a clock that costs
// no more to read than a variable.
type Sweeper struct {
	now  atomic.Int64 // nanoseconds since start, at the last tick; never 0
	_    [56]byte     // what follows is written often, now is read often
	next atomic.Uint32

	shards [shards]shard
	start  time.Time
	stop   chan struct{}
	done   chan struct{}
}

type shard struct {
	mu    sync.Mutex
	conns []*Conn
	_     [32]byte
}

// place is where a connection stands among its sweeper's.
type place struct {
	shard *shard
	index int // -1 once it was removed
}

// wait returns when the sweeper is not busy with the connection's shard.
func (p *place) wait() {
	p.shard.mu.Lock()
	//lint:ignore SA2001 the sweeper holds the lock while it is busy
	p.shard.mu.Unlock()
}

// NewSweeper starts a sweeper.
func NewSweeper() *Sweeper {
	s := &Sweeper{start: time.Now(), stop: make(chan struct{}), done: make(chan struct{})}
	s.now.Store(1)
	go s.run()
	return s
}

// Close stops the sweeper. Connections that are still open lose their
// timeouts.
func (s *Sweeper) Close() {
	close(s.stop)
	<-s.done
}

// Now returns the time since the sweeper started, at most a Tick old.
func (s *Sweeper) Now() time.Duration { return time.Duration(s.now.Load()) }

func (s *Sweeper) run() {
	defer close(s.done)
	t := time.NewTicker(Tick)
	defer t.Stop()
	var p poller
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
			s.sweep(int64(time.Since(s.start)), &p)
		}
	}
}

// sweep looks at every connection once.
func (s *Sweeper) sweep(now int64, p *poller) {
	s.now.Store(now)
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for _, c := range sh.conns {
			if d := c.deadline.Load(); d != 0 && now >= d {
				c.wake()
			} else if d := c.look.Load(); d != 0 && now >= d {
				c.wake()
			}
			if c.raw == nil {
				continue
			}
			since := c.armed.Load()
			if since == 0 {
				since = c.watch.Load()
			}
			if since > 0 && now-since >= int64(Tick) {
				p.add(c)
			}
		}
		// The lock keeps the polled descriptors from being closed, and their
		// numbers from meaning something else.
		p.poll(now)
		sh.mu.Unlock()
	}
}

// seen acts on what polling the connection found.
func (c *Conn) seen(now int64, readable, halfClosed, gone bool) {
	if since := c.armed.Load(); since != 0 {
		if readable || halfClosed || gone {
			c.wake() // the waiting goroutine reads again
		}
		// Only what came before the wait began can have been missed: there is
		// no need to ask again.
		c.armed.CompareAndSwap(since, 0)
	}
	since := c.watch.Load()
	if since <= 0 {
		return
	}
	if halfClosed && !gone {
		if c.halfOpen == 0 {
			c.halfOpen = now
		}
		gone = now-c.halfOpen >= c.grace.Load()
	}
	if gone && c.watch.CompareAndSwap(since, notifying) {
		c.watcher.ClientGone()
		c.watch.Store(notified)
	}
}

func (s *Sweeper) add(c *Conn) {
	sh := &s.shards[s.next.Add(1)%shards]
	sh.mu.Lock()
	c.place = place{sh, len(sh.conns)}
	sh.conns = append(sh.conns, c)
	sh.mu.Unlock()
}

func (s *Sweeper) remove(c *Conn) {
	sh := c.place.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if c.place.index < 0 {
		return
	}
	last := len(sh.conns) - 1
	sh.conns[c.place.index] = sh.conns[last]
	sh.conns[c.place.index].place.index = c.place.index
	sh.conns[last] = nil
	sh.conns = sh.conns[:last]
	c.place.index = -1
}
