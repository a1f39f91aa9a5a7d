package wire

import "time"

// The states of Conn.watch that are no times.
const (
	unwatched = 0
	notifying = -1 // the sweeper is calling ClientGone
	notified  = -2
)

// Watcher is told of a client that went away.
type Watcher interface {
	// ClientGone is called by the sweeper, at most once for each Watch and
	// never after Unwatch has returned. It must not block.
	ClientGone()
}

// Watch has the sweeper look whether the other end is still there and tell w
// when it is not: at once after a reset, and when it closed its sending half
// only after grace, for it may still wait for the answer. A goroutine that is
// about to wait for something else calls it. Nothing is watched where there
// is no raw access to the socket.
func (c *Conn) Watch(w Watcher, grace time.Duration) {
	if c.raw == nil {
		return
	}
	if c.grace.Load() != int64(grace) {
		c.grace.Store(int64(grace))
	}
	c.watcher = w
	c.watch.Store(c.sweeper.now.Load())
}

// Unwatch ends what Watch began. When it returns, w is not being told and
// will not be.
func (c *Conn) Unwatch() {
	if c.raw == nil {
		return
	}
	for since := c.watch.Load(); since != unwatched; since = c.watch.Load() {
		if since != notifying && c.watch.CompareAndSwap(since, unwatched) {
			return
		}
		if since == notifying {
			c.place.wait() // ClientGone does not block, so this is short
		}
	}
}
