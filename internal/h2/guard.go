package h2

import "gatehouse.dev/gatehouse/internal/exchange"

// guard holds the budgets of a connection: for what the other end can make us
// do without getting on itself. Each is filled up by time and by work that is
// done in earnest, so that a good client never comes near its end.
type guard struct {
	resets budget // streams that were begun for nothing
	chat   budget // frames that ask for nothing, or for an answer only
	crumbs budget // DATA that is small because the other end's window is
	gives  int    // window updates that what was sent accounts for
}

const (
	resetBurst, resetRate = 200, 20
	chatBurst, chatRate   = 1000, 100
	crumbBurst, crumbRate = 200, 20

	// chatEarned is how many such frames a HEADERS or DATA frame accounts for:
	// window updates for the stream and the connection, a PING that measures
	// the path, a priority.
	chatEarned = 4
	// givesMost is how many window updates are owed at most. There may be many
	// at once: who reads late gives back late, and some do it in small portions.
	givesMost = 1 << 17
	// crumbSize is what a DATA frame that a window cut short should at least
	// have. Each that has four times as much makes up for one that has not.
	crumbSize = 256
)

// begin fills the budgets; resets is the size of that one.
func (g *guard) begin(resets int) {
	now := exchange.Now()
	g.resets = budget{left: resets, burst: resets, rate: resetRate, since: now}
	g.chat = budget{left: chatBurst, burst: chatBurst, rate: chatRate, since: now}
	g.crumbs = budget{left: crumbBurst, burst: crumbBurst, rate: crumbRate, since: now}
}

// reset takes note of a stream that was begun for nothing: reset by the other
// end, refused, or broken by it.
func (g *guard) reset() error {
	if !g.resets.spend(1) {
		return calm("too many streams were reset")
	}
	return nil
}

// chatter takes note of n frames that bring nothing.
func (g *guard) chatter(n int) error {
	if !g.chat.spend(n) {
		return calm("too many frames that bring nothing")
	}
	return nil
}

// give takes note of a window update.
func (g *guard) give() error {
	if g.gives > 0 {
		g.gives--
		return nil
	}
	return g.chatter(1)
}

// sent takes note of a DATA frame of ours with n bytes.
func (g *guard) sent(n int) {
	g.chat.earn(chatEarned)
	g.gives = min(g.gives+chatEarned+n>>10, givesMost)
}

// crumb takes note of a DATA frame that a tiny window made tiny.
func (g *guard) crumb() error {
	if !g.crumbs.spend(1) {
		return calm("windows are too small")
	}
	return nil
}

// budget is a bucket of tokens.
type budget struct {
	left, burst int
	rate        int   // tokens a second
	since       int64 // until when they were given out
}

func (b *budget) spend(n int) bool {
	if b.left < n {
		b.refill()
	}
	b.left -= n
	return b.left >= 0
}

// refill gives out what time has earned. It is looked at only when the bucket
// is empty, so that spending needs no clock.
func (b *budget) refill() {
	now := exchange.Now()
	if n := (now - b.since) / 1e6 * int64(b.rate) / 1e3; n > 0 {
		b.since = now
		b.left = int(min(int64(b.left)+n, int64(b.burst)))
	}
}

func (b *budget) earn(n int) { b.left = min(b.left+n, b.burst) }

// closedRing remembers the streams that were closed last, and who did it: the
// other end's frames may cross a reset of ours.
type closedRing struct {
	ids  [64]uint32
	ours uint64
	next uint8
}

func (r *closedRing) add(id uint32, ours bool) {
	i := r.next % 64
	r.next++
	r.ids[i] = id
	r.ours &^= 1 << i
	if ours {
		r.ours |= 1 << i
	}
}

func (r *closedRing) find(id uint32) (ours, known bool) {
	for i, have := range r.ids {
		if have == id {
			return r.ours&(1<<i) != 0, true
		}
	}
	return false, false
}
