package observe

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Route counts the exchanges of one route.
type Route struct {
	name  string
	parts sharded[routeCounts]

	mu sync.Mutex // held while a copy's problems get a new code
}

// routeCounts is one copy of a route's counters.
type routeCounts struct {
	begun    atomic.Uint64
	statuses [len(statusCodes) + len(otherCodes)]atomic.Uint64
	took     durations
	received atomic.Int64
	sent     atomic.Int64
	problems atomic.Pointer[map[problemKey]*atomic.Uint64] // replaced as a whole, never written
	_        [64]byte                                      // keeps other copies off the last cache line
}

type problemKey struct {
	code string
	side exchange.Side
}

// mostProblems bounds the codes that one route tells apart. The codes are words
// of the gateway and its policies; no client chooses one.
const mostProblems = 100

func newRoute(name string) *Route {
	return &Route{name: name, parts: newSharded[routeCounts]()}
}

// Begin counts an exchange that begins. It neither blocks nor allocates.
func (r *Route) Begin(shard uint32) { r.parts.at(shard).begun.Add(1) }

// End counts an exchange that has ended. It neither blocks nor allocates when
// the gateway had no problem with it.
//
// How long an upgraded connection stayed open is no duration of an answer, and
// is not observed.
func (r *Route) End(x *exchange.Exchange) {
	c := r.parts.at(x.Client.Shard)
	c.statuses[statusIndex(x.Response.Status)].Add(1)
	if n := x.Request.Received; n > 0 {
		c.received.Add(n)
	}
	if n := x.Response.Sent; n > 0 {
		c.sent.Add(n)
	}
	if x.Response.Status != 101 && x.Times.Start != 0 {
		c.took.observe(time.Duration(x.Times.End - x.Times.Start))
	}
	if p := x.Problem; p != nil {
		r.problem(c, problemKey{p.Code, p.Side})
	}
}

func (r *Route) problem(c *routeCounts, key problemKey) {
	if known := c.problems.Load(); known != nil {
		if n := (*known)[key]; n != nil {
			n.Add(1)
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[problemKey]*atomic.Uint64)
	if known := c.problems.Load(); known != nil {
		next = maps.Clone(*known)
	}
	if len(next) >= mostProblems && next[key] == nil {
		key = problemKey{other, key.side}
	}
	if next[key] == nil {
		next[key] = new(atomic.Uint64)
		c.problems.Store(&next)
	}
	next[key].Add(1)
}

// other is the label of whatever has no series of its own.
const other = "other"

// statusCodes are the statuses with a series of their own: an upstream may
// answer with any number, and must not make a series by it.
var statusCodes = [...]int{
	101,
	200, 201, 202, 203, 204, 205, 206,
	300, 301, 302, 303, 304, 307, 308,
	400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417,
	421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499,
	500, 501, 502, 503, 504, 505, 507, 511,
}

// otherCodes are the classes of other statuses. The first is for none at all:
// an exchange that ended before it had an answer.
var otherCodes = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

// statusIndexes leads from a status to its place in routeCounts.statuses.
var statusIndexes = func() (t [600]uint8) {
	for i := range t {
		t[i] = uint8(len(statusCodes) + i/100)
	}
	for i, code := range statusCodes {
		t[code] = uint8(i)
	}
	return t
}()

func statusIndex(status int) int {
	if status < 0 || status >= len(statusIndexes) {
		status = 0
	}
	return int(statusIndexes[status])
}

// statusLabels returns the labels of a place in routeCounts.statuses.
func statusLabels(i int) (class, code string) {
	if i >= len(statusCodes) {
		return otherCodes[i-len(statusCodes)], other
	}
	status := statusCodes[i]
	return otherCodes[status/100], strconv.Itoa(status)
}
