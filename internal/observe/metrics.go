package observe

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gatehouse.dev/gatehouse/internal/config"
)

// mostScrapes bounds how many answers of Handler are in the making at once;
// further ones are answered 503.
const mostScrapes = 4

// Metrics is all that the gateway counts. Whoever counts asks once for its
// route, listener or upstream, when a snapshot is compiled, and keeps it: the
// same name is the same counters, over reloads too, as long as anybody keeps
// them. What nobody keeps any more loses its series.
type Metrics struct {
	limit   int // names that have series of their own, of each sort
	handler http.Handler

	mu        sync.Mutex
	routes    table[Route]
	listeners table[Listener]
	upstreams table[Upstream]
	reload    reload
	endpoints func(yield func(upstream, state string, n int))
	expiries  func(yield func(source, name string, expires time.Time))
	spared    map[spared]int
	redis     func() bool // whether Redis answers; nil without one

	logWritten, logDropped, logErrors atomic.Uint64
}

// reload is what is known of the reloads.
type reload struct {
	ok, failed int
	last       bool // whether the last one succeeded
	succeeded  time.Time
	digest     string
}

// NewMetrics returns metrics without any series but those of the process.
func NewMetrics(cfg config.Metrics) *Metrics {
	m := &Metrics{spared: make(map[spared]int)}
	m.Configure(cfg)
	m.routes.init(newRoute, "none", other)
	m.listeners.init(newListener, other)
	m.upstreams.init(newUpstream, other)
	r := prometheus.NewRegistry()
	r.MustRegister(
		(*collector)(m),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.handler = promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: mostScrapes})
	return m
}

// Configure changes how many names have series of their own. It holds for names
// that are asked for from then on.
func (m *Metrics) Configure(cfg config.Metrics) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit = max(cfg.MaxRoutes, 1)
}

// Endpoints says who tells, at every scrape, how many endpoints of an upstream
// are in a state. The names are those of the configuration.
func (m *Metrics) Endpoints(tell func(yield func(upstream, state string, n int))) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.endpoints = tell
}

// Redis says who tells, at every scrape, whether Redis answers; nil when there is
// none to ask.
func (m *Metrics) Redis(answers func() bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.redis = answers
}

// Certificates says who tells, at every scrape, when each certificate expires,
// by where it comes from and by its first name: files and names of the
// configuration.
func (m *Metrics) Certificates(tell func(yield func(source, name string, expires time.Time))) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expiries = tell
}

// spared names what is counted of requests that policies let through.
type spared struct{ policy, reason string }

// Spared returns who counts the requests that a kind of policy would have
// refused, or could not decide about, and let go on for a reason. Kinds and
// reasons are few, and what happened stays counted.
func (m *Metrics) Spared(policy string) func(reason string) {
	return func(reason string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.spared[spared{policy, reason}]++
	}
}

// Handler answers with all metrics in the format of Prometheus.
func (m *Metrics) Handler() http.Handler { return m.handler }

// Route returns the counters of a route. Names beyond the limit share those of
// "other".
func (m *Metrics) Route(name string) *Route {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.routes.get(name, m.limit)
}

// Listener returns the counters of a listener. Names beyond the limit share
// those of "other".
func (m *Metrics) Listener(name string) *Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.listeners.get(name, m.limit)
}

// Upstream returns the counters of an upstream. Names beyond the limit share
// those of "other".
func (m *Metrics) Upstream(name string) *Upstream {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.upstreams.get(name, m.limit)
}

// Reload counts a reload that was applied, or was not and left the last good
// configuration in force. digest is that of the configuration in force.
func (m *Metrics) Reload(ok bool, digest string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reload.last, m.reload.digest = ok, digest
	if ok {
		m.reload.ok++
		m.reload.succeeded = time.Now()
	} else {
		m.reload.failed++
	}
	m.routes.next()
	m.listeners.next()
	m.upstreams.next()
}

// table holds counters by name. It does not keep them alive: that is for those
// who count.
type table[T any] struct {
	create func(name string) *T
	fixed  map[string]*T // exist from the beginning and for ever
	named  map[string]entry[T]
	turn   int // counts configurations, applied or not
	asked  int // names asked for in this turn
	swept  int // the turn in which unused names were last looked for
}

type entry[T any] struct {
	v    weak.Pointer[T]
	turn int // when it was last asked for
}

func (t *table[T]) init(create func(string) *T, fixed ...string) {
	t.create, t.fixed, t.named, t.swept = create, make(map[string]*T), make(map[string]entry[T]), -1
	for _, name := range fixed {
		t.fixed[name] = create(name)
	}
}

// get returns the counters of a name. A configuration may ask for as many new
// names as the limit says, while those of the one before it are still in use.
func (t *table[T]) get(name string, limit int) *T {
	name = strings.ToValidUTF8(name, "\uFFFD") // what Prometheus asks of a label
	if v := t.fixed[name]; v != nil {
		return v
	}
	e := t.named[name]
	v := e.v.Value()
	switch {
	case v != nil && e.turn == t.turn:
		return v
	case v == nil && (t.asked >= limit || t.full(2*limit)):
		return t.fixed[other]
	case v == nil:
		v = t.create(name)
	}
	t.asked++
	t.named[name] = entry[T]{weak.Make(v), t.turn}
	return v
}

// next says that a configuration has asked for all it wants.
func (t *table[T]) next() {
	t.turn++
	t.asked = 0
}

// full reports whether there are names enough. Those that nobody uses any more
// do not count, but are looked for once a turn only: a configuration may ask
// for very many names.
func (t *table[T]) full(limit int) bool {
	if len(t.named) >= limit && t.swept != t.turn {
		t.swept = t.turn
		t.sweep()
	}
	return len(t.named) >= limit
}

// sweep forgets the names that nobody uses any more.
func (t *table[T]) sweep() {
	for name, e := range t.named {
		if e.v.Value() == nil {
			delete(t.named, name)
		}
	}
}

// each calls f with all counters.
func (t *table[T]) each(f func(*T)) {
	t.sweep()
	for _, v := range t.fixed {
		f(v)
	}
	for _, e := range t.named {
		if v := e.v.Value(); v != nil {
			f(v)
		}
	}
}
