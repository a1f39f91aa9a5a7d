// Package upstream owns the way to the services behind the gateway: their
// endpoints, where they are found, how well they are and which one is picked;
// pools of connections; sending again what failed; limits that keep a service
// from being crushed; and tunnels. It sends what is in an exchange's request,
// byte for byte, and decides nothing about it: no routing, no policy, no
// rewriting.
package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/share"
	"gatehouse.dev/gatehouse/internal/upstream/discover"
	"gatehouse.dev/gatehouse/internal/upstream/health"
	"gatehouse.dev/gatehouse/internal/wire"
)

// What an upstream's answer may hold. Heads of this size leave room for what a
// client's own limits usually are.
const (
	maxHeaderBytes = 64 << 10
	maxHeaders     = 256
)

// Resolver turns a name into addresses. A *net.Resolver is one. One that is a
// discover.Resolver too is asked for SRV records as well; a *discover.DNS also
// tells for how long answers are good.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options are what an upstream needs besides its settings.
type Options struct {
	Sweeper  *wire.Sweeper
	Log      *slog.Logger
	Meter    Meter    // nil: nothing is counted
	Resolver Resolver // nil: one that asks the machine's name servers
	Memory   *Memory  // what outlives a change of settings; nil: nothing does
	Still    bool     // it is only looked at: no name is resolved, no endpoint looked for or checked
}

// Upstream is a service behind the gateway. It is safe for concurrent use.
type Upstream struct {
	name     string
	sweeper  *wire.Sweeper
	log      *slog.Logger
	meter    Meter
	resolver Resolver
	memory   *Memory
	service  *history
	header   int // version of the PROXY header that begins connections, 0 for none

	still     bool // see Options
	balance   balancing
	key       func(x *exchange.Exchange) uint64 // nil: the balance does not hash
	limits    h1.ResponseLimits
	field     string // where the time left is told
	pool      config.Connections
	preserve  bool // the Host field is the client's
	zone      string
	sticky    *sticky
	retry     *retry
	hedge     *hedging
	health    *checking
	outlier   *outlier
	breaks    bool // there is a breaker
	slowStart time.Duration
	gate      *gate
	gradient  *health.Gradient
	most      int      // requests at a time, 0 for no limit
	each      int      // the same of one endpoint
	first     []string // groups that come first
	tls       *tls.Config
	files     *files // of tls; nil when there are none to follow
	dial      func(ctx context.Context, network, address string) (net.Conn, error)

	live    atomic.Pointer[set]
	found   chan struct{} // closed once there is an endpoint
	open    atomic.Int64  // connections to all endpoints
	active  atomic.Int64  // exchanges at all endpoints, when hashing
	mirrors atomic.Int64  // mirrored requests under way
	lost    lost

	mu         sync.Mutex // guards changes of live, and what follows
	sites      []*site
	discovered []*site
	findings   []*finding
	built      bool // there were endpoints once
	rebuilt    health.Clock
	retired    bool
	refresher  *time.Timer
	ctx        context.Context // ends with Retire
	stop       context.CancelFunc
}

// balancing is how an endpoint is picked.
type balancing struct {
	Algorithm           string
	Slack, Spill, Panic float64
}

// New returns an upstream that is ready to serve. Names are resolved in the
// background, so that New does no I/O but for the files of certificates; a
// request that comes before the first answer waits for it.
func New(name string, cfg *config.Upstream, o Options) (*Upstream, error) {
	u, err := prepare(name, cfg, o)
	if err != nil {
		return nil, err
	}
	if err := u.start(cfg); err != nil {
		return nil, err
	}
	return u, nil
}

// prepare returns an upstream that start makes ready.
func prepare(name string, cfg *config.Upstream, o Options) (*Upstream, error) {
	u := &Upstream{
		name: name, sweeper: o.Sweeper, log: o.Log, meter: o.Meter, resolver: o.Resolver, memory: o.Memory, still: o.Still,
		pool: cfg.Connections, preserve: cfg.Host != "endpoint", zone: cfg.Zone,
		limits: h1.ResponseLimits{
			HeaderBytes: maxHeaderBytes, Headers: maxHeaders,
			FirstByte: cfg.Timeout.FirstByte.D(), Request: cfg.Timeout.Request.D(), Idle: cfg.Timeout.Idle.D(),
		},
		field: cfg.Timeout.Field, slowStart: cfg.SlowStart.D(),
		dial:  new(net.Dialer).DialContext,
		found: make(chan struct{}),
	}
	if u.meter == nil {
		u.meter = noMeter{}
	}
	if u.resolver == nil {
		u.resolver = discover.NewDNS()
	}
	switch cfg.ProxyProtocol {
	case "v1":
		u.header = 1
	case "v2":
		u.header = 2
	}
	if u.header != 0 {
		// A connection belongs to the client that its header names.
		u.pool.Idle = 0
	}
	if u.memory == nil {
		u.memory = NewMemory()
	}
	if len(cfg.Endpoints) == 0 && cfg.Discovery == nil {
		return nil, fmt.Errorf("upstream %q has no endpoints", name)
	}
	for _, c := range cfg.Endpoints {
		s, err := parseSite(c)
		if err != nil {
			return nil, err
		}
		u.sites = append(u.sites, s)
	}
	if err := u.configure(cfg); err != nil {
		return nil, fmt.Errorf("upstream %q: %w", name, err)
	}
	return u, nil
}

// start begins whatever goes on in the background. After an error nothing
// does.
func (u *Upstream) start(cfg *config.Upstream) error {
	u.service = u.memory.open(u.name)
	u.ctx, u.stop = context.WithCancel(context.Background())
	if b := cfg.Breaker; b != nil {
		u.breaks = true
		u.service.breaker.Set(health.BreakerSettings{
			ErrorRate: float64(b.ErrorRate), Slow: b.Slow.D(), SlowRate: float64(b.SlowRate),
			MinRequests: b.MinRequests, Window: b.Window.D(), Open: b.Open.D(), Probes: b.Probes,
		}, u.breakerChanged)
	}
	u.live.Store(&set{})
	for _, s := range u.sites {
		if s.name != "" {
			s.finding = u.recall(s.hostport())
			s.addresses = s.finding.get()
		}
	}
	u.rebuild()
	if !u.still && slices.ContainsFunc(u.sites, func(s *site) bool { return s.name != "" }) {
		go u.resolve(u.ctx)
	}
	if cfg.Discovery == nil {
		return nil
	}
	if err := u.discover(cfg.Discovery); err != nil {
		u.Retire()
		return fmt.Errorf("upstream %q: %w", u.name, err)
	}
	return nil
}

// configure takes the settings that have parts of their own.
func (u *Upstream) configure(cfg *config.Upstream) (err error) {
	b := cfg.Balance
	u.balance = balancing{b.Algorithm, float64(b.Slack), float64(b.SpillBelow), float64(b.Panic)}
	if b.Hash != "" {
		u.balance.Algorithm = "hash"
		if u.key, err = hashOf(b.Hash); err != nil {
			return err
		}
	}
	if u.balance.Algorithm == "" {
		u.balance.Algorithm = "round_robin"
	}
	if u.balance.Spill <= 0 {
		u.balance.Spill = 1
	}
	if err := checkAlgorithm(u.balance.Algorithm); err != nil {
		return err
	}
	u.sticky = newSticky(u.name, cfg)
	if u.retry, err = newRetry(cfg.Retry); err != nil {
		return err
	}
	if cfg.Retry != nil {
		u.limits.Try = cfg.Retry.TryTimeout.D()
	}
	if u.hedge, err = newHedging(cfg.Hedge); err != nil {
		return err
	}
	if u.health, err = newChecking(cfg.Health); err != nil {
		return err
	}
	if u.tls, u.files, err = clientTLS(cfg.TLS); err != nil {
		return err
	}
	u.outlier = newOutlier(cfg.Outlier)
	u.newGate(cfg)
	return nil
}

// newGate makes the gate where requests are bounded, or may wait.
func (u *Upstream) newGate(cfg *config.Upstream) {
	if cfg.Queue == nil && cfg.Concurrency == nil {
		return
	}
	u.gate = &gate{}
	if q := cfg.Queue; q != nil {
		u.gate.most, u.gate.timeout, u.first = q.Max, q.Timeout.D(), q.First
	}
	if c := cfg.Concurrency; c != nil {
		if u.most, u.each = c.Max, c.PerEndpoint; c.Adaptive {
			u.gradient = health.NewGradient(c.Min, c.Max)
		}
	}
}

// limit tells the gate how many requests the members of a set may have: what
// they may have each, together, or as many as there may be connections, where
// that is fewer and none is shared.
func (u *Upstream) limit(s *set) {
	if u.gate == nil {
		return
	}
	limit := u.most
	lower := func(to int) {
		if to > 0 && (limit == 0 || to < limit) {
			limit = to
		}
	}
	if u.gradient != nil {
		lower(u.gradient.Limit())
	}
	n, shares := 0, false
	for i := range s.lanes {
		n += len(s.lanes[i].endpoints)
		shares = shares || slices.ContainsFunc(s.lanes[i].endpoints, (*endpoint).sharing)
	}
	lower(u.each * n)
	if !shares {
		lower(u.pool.Max)
		lower(u.pool.MaxPerEndpoint * n)
	}
	u.gate.bound(limit)
}

// Retire says that no further snapshot uses the upstream. Idle connections are
// closed now, others when their exchange has no more use of them; exchanges
// that still hold an older snapshot are served on new ones.
func (u *Upstream) Retire() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.retired {
		return
	}
	u.retired = true
	u.stop()
	if u.refresher != nil {
		u.refresher.Stop()
	}
	for _, m := range u.live.Load().members {
		m.e.retire()
	}
	for _, f := range u.findings {
		u.memory.drop(u.service, f)
	}
	u.memory.close(u.service)
}

// recall returns what an upstream of the same name found last. It is for start.
func (u *Upstream) recall(key string) *finding {
	f := u.memory.finding(u.service, key)
	u.findings = append(u.findings, f)
	return f
}

// await waits until the first endpoint is found, at most as long as connecting
// may take.
func (u *Upstream) await(x *exchange.Exchange) *set {
	ctx, cancel := u.patience()
	defer cancel()
	err := x.Bind(canceler(cancel))
	if err == nil {
		select {
		case <-u.found:
		case <-ctx.Done():
		}
		err = x.Bind(nil)
	}
	if err != nil {
		x.Fail(clientGone.With(err))
		return nil
	}
	s := u.live.Load()
	if len(s.members) == 0 {
		x.Fail(&unavailable)
		return nil
	}
	return s
}

// patience returns a context that ends when a connection should have been
// established.
func (u *Upstream) patience() (context.Context, context.CancelFunc) {
	if d := u.pool.ConnectTimeout.D(); d > 0 {
		return context.WithTimeout(context.Background(), d)
	}
	return context.WithCancel(context.Background())
}

// canceler lets an exchange that is cancelled end a context.
type canceler context.CancelFunc

// Interrupt implements exchange.Interrupter.
func (c canceler) Interrupt() { c() }

// reserve takes a place for a connection. When all are taken, an idle
// connection, of whatever endpoint, makes room.
func (u *Upstream) reserve() bool {
	for {
		if n := u.open.Add(1); u.pool.Max == 0 || n <= int64(u.pool.Max) {
			return true
		}
		u.open.Add(-1)
		if !u.evict() {
			return false
		}
	}
}

func (u *Upstream) evict() bool {
	members := u.live.Load().members
	for i := range members {
		if members[i].e.evict() {
			return true
		}
	}
	return false
}

// expired reports whether a connection has been idle for too long.
func (u *Upstream) expired(since time.Duration) bool {
	d := u.pool.IdleTimeout.D()
	return d > 0 && u.sweeper.Now()-since >= d
}

// hashOf returns what makes the key of a request. One that has nothing to hash
// has a key of its own.
func hashOf(setting string) (func(x *exchange.Exchange) uint64, error) {
	value, err := share.ParseKey(setting)
	if err != nil {
		return nil, err
	}
	return func(x *exchange.Exchange) uint64 { return keyOf(value(x)) }, nil
}

// milliseconds is a duration for the field that tells the time left.
func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}
