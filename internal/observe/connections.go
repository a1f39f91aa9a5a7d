package observe

import (
	"sync"
	"sync/atomic"
	"time"
)

// Listener counts the connections of one listener.
type Listener struct {
	name  string
	parts sharded[listenerCounts]
}

type listenerCounts struct {
	opened, closed, failed atomic.Uint64
	unaccepted             atomic.Uint64
	secured, unsecured     atomic.Uint64
	received, sent         atomic.Int64
	_                      [64]byte
}

func newListener(name string) *Listener {
	return &Listener{name: name, parts: newSharded[listenerCounts]()}
}

// Opened counts a connection that was accepted.
func (l *Listener) Opened(shard uint32) { l.parts.at(shard).opened.Add(1) }

// Closed counts the end of one that was accepted.
func (l *Listener) Closed(shard uint32) { l.parts.at(shard).closed.Add(1) }

// Secured counts a TLS handshake that succeeded.
func (l *Listener) Secured(shard uint32) { l.parts.at(shard).secured.Add(1) }

// Unsecured counts one that failed.
func (l *Listener) Unsecured(shard uint32) { l.parts.at(shard).unsecured.Add(1) }

// Unaccepted counts an attempt to accept a connection that failed. It may be
// tried again.
func (l *Listener) Unaccepted() { l.parts.at(0).unaccepted.Add(1) }

// Failed counts a connection that was refused before it was served, could not
// be passed on, or broke while it was.
func (l *Listener) Failed(shard uint32) { l.parts.at(shard).failed.Add(1) }

// Moved counts the bytes of a connection that was passed on: those from the
// client, and those to it.
func (l *Listener) Moved(shard uint32, received, sent int64) {
	c := l.parts.at(shard)
	c.received.Add(received)
	c.sent.Add(sent)
}

// Upstream counts what happens on the way to one upstream. Its methods neither
// block nor allocate; shard spreads the counters, and any value will do.
type Upstream struct {
	name  string
	parts sharded[upstreamCounts]

	mu     sync.Mutex
	events map[string]int
}

// Event counts something that seldom happens. The upstream has a fixed set of
// names.
func (u *Upstream) Event(name string) {
	u.mu.Lock()
	u.events[name]++
	u.mu.Unlock()
}

type upstreamCounts struct {
	opened, failed, closed atomic.Uint64
	reused, retried        atomic.Uint64
	idle, tunnels          atomic.Int64
	firstByte              durations
	_                      [64]byte
}

func newUpstream(name string) *Upstream {
	return &Upstream{name: name, parts: newSharded[upstreamCounts](), events: make(map[string]int)}
}

// Opened counts a connection that was established.
func (u *Upstream) Opened(shard uint32) { u.parts.at(shard).opened.Add(1) }

// Failed counts one that could not be established.
func (u *Upstream) Failed(shard uint32) { u.parts.at(shard).failed.Add(1) }

// Closed counts the end of one that was established.
func (u *Upstream) Closed(shard uint32) { u.parts.at(shard).closed.Add(1) }

// Idle says that so many more connections are idle, or fewer.
func (u *Upstream) Idle(shard uint32, change int) { u.parts.at(shard).idle.Add(int64(change)) }

// Tunnels says that so many more connections carry an upgraded stream, or
// fewer.
func (u *Upstream) Tunnels(shard uint32, change int) { u.parts.at(shard).tunnels.Add(int64(change)) }

// Reused counts a request that went out on a kept connection.
func (u *Upstream) Reused(shard uint32) { u.parts.at(shard).reused.Add(1) }

// Retried counts a request that was sent again.
func (u *Upstream) Retried(shard uint32) { u.parts.at(shard).retried.Add(1) }

// FirstByte observes the time from the first byte of a request sent to the
// head of its answer.
func (u *Upstream) FirstByte(shard uint32, d time.Duration) { u.parts.at(shard).firstByte.observe(d) }
