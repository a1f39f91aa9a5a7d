// Package upstream owns the way to the services behind the gateway: their
// endpoints and how one is picked, pools of connections, names that are
// resolved again, sending again what a dead connection swallowed, and tunnels.
// It sends what is in an exchange's request, byte for byte, and decides nothing
// about it: no routing, no policy, no rewriting.
package upstream

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/wire"
)

// What an upstream's answer may hold. Heads of this size leave room for what a
// client's own limits usually are.
const (
	maxHeaderBytes = 64 << 10
	maxHeaders     = 256
)

// Resolver turns a name into addresses. A *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options are what an upstream needs besides its settings.
type Options struct {
	Sweeper  *wire.Sweeper
	Log      *slog.Logger
	Meter    Meter    // nil: nothing is counted
	Resolver Resolver // nil: the system's
}

// Upstream is a service behind the gateway. It is safe for concurrent use.
type Upstream struct {
	name     string
	sweeper  *wire.Sweeper
	log      *slog.Logger
	meter    Meter
	resolver Resolver
	balance  string
	limits   h1.ResponseLimits
	pool     config.Connections
	preserve bool // the Host field is the client's
	header   int  // version of the PROXY header that begins connections, 0 for none

	sites []*site
	live  atomic.Pointer[set]
	found chan struct{} // closed once there is an endpoint
	open  atomic.Int64  // connections to all endpoints

	mu      sync.Mutex // guards changes of live, and what follows
	retired bool
	stop    context.CancelFunc // ends the resolving
}

// set is what there is to choose from at one time. It does not change.
type set struct {
	endpoints []*endpoint
	picker    picker
}

// New returns an upstream that is ready to serve. Names are resolved in the
// background, so that New does no I/O; a request that comes before the first
// answer waits for it.
func New(name string, cfg *config.Upstream, o Options) (*Upstream, error) {
	u := &Upstream{
		name: name, sweeper: o.Sweeper, log: o.Log, meter: o.Meter, resolver: o.Resolver,
		balance: cfg.Balance, pool: cfg.Connections, preserve: cfg.Host != "endpoint",
		limits: h1.ResponseLimits{
			HeaderBytes: maxHeaderBytes, Headers: maxHeaders,
			FirstByte: cfg.Timeout.FirstByte.D(), Request: cfg.Timeout.Request.D(), Idle: cfg.Timeout.Idle.D(),
		},
		found: make(chan struct{}),
	}
	if u.meter == nil {
		u.meter = noMeter{}
	}
	if u.resolver == nil {
		u.resolver = net.DefaultResolver
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
	if len(cfg.Endpoints) == 0 {
		return nil, fmt.Errorf("upstream %q has no endpoints", name)
	}
	names := false
	for _, c := range cfg.Endpoints {
		s, err := parseSite(c)
		if err != nil {
			return nil, err
		}
		u.sites = append(u.sites, s)
		names = names || s.name != ""
	}
	if _, err := newPicker(u.balance, nil); err != nil {
		return nil, err
	}
	u.live.Store(&set{})
	u.rebuild()
	if names {
		ctx, cancel := context.WithCancel(context.Background())
		u.stop = cancel
		go u.resolve(ctx)
	}
	return u, nil
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
	if u.stop != nil {
		u.stop()
	}
	for _, e := range u.live.Load().endpoints {
		e.retire()
	}
}

// Serve asks the service and fills in x.Response, whose Body must be closed, or
// fails x. An answer of status 101 has a Body that is an exchange.Tunnel.
//
// An endpoint that cannot be reached is passed over for the next one, until
// all have been tried or three have run into the connect timeout: nothing was
// sent, so this is safe for every request.
func (u *Upstream) Serve(x *exchange.Exchange) {
	u.each(x, func(e *endpoint) (*exchange.Problem, bool) { return e.serve(x) })
}

// each has endpoints try, one after the other, until one has no problem or
// there is no use in another.
func (u *Upstream) each(x *exchange.Exchange, try func(*endpoint) (p *exchange.Problem, next bool)) {
	x.Upstream.Name = u.name
	s := u.live.Load()
	if len(s.endpoints) == 0 {
		if s = u.await(x); s == nil {
			return
		}
	}
	var been tried
	for slow := 0; slow < maxSlow; {
		e := s.picker.pick(x, been)
		if e == nil {
			return // x has the problem of the last one
		}
		x.Upstream.Endpoint = e.address
		p, next := try(e)
		if p == nil {
			x.Problem = nil
			return
		}
		x.Problem = p
		if !next {
			return
		}
		if p.Code == connectTimeout.Code {
			slow++
		}
		if been == nil {
			been = make(tried)
		}
		been[e] = true
	}
}

// maxSlow is how many endpoints that do not even refuse a connection are tried
// for one exchange.
const maxSlow = 3

// await waits until the first name is resolved, at most as long as connecting
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
	if len(s.endpoints) == 0 {
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
	for _, e := range u.live.Load().endpoints {
		if c := e.oldest(); c != nil {
			c.close()
			return true
		}
	}
	return false
}

// rebuild makes the set of endpoints anew from the addresses of all sites.
// Endpoints that were there before keep their connections.
func (u *Upstream) rebuild() {
	u.mu.Lock()
	defer u.mu.Unlock()
	type place struct {
		site    *site
		address string
	}
	before := make(map[place]*endpoint)
	for _, e := range u.live.Load().endpoints {
		before[place{e.site, e.address}] = e
	}
	var next set
	var candidates []candidate
	for _, s := range u.sites {
		for _, address := range s.addresses {
			e := before[place{s, address}]
			if e == nil {
				e = &endpoint{u: u, site: s, address: address, retired: u.retired}
			}
			delete(before, place{s, address})
			next.endpoints = append(next.endpoints, e)
			candidates = append(candidates, candidate{e, float64(s.weight) / float64(len(s.addresses))})
		}
	}
	// New has seen that there is such a picker.
	next.picker, _ = newPicker(u.balance, candidates)
	u.live.Store(&next)
	for _, e := range before {
		e.retire()
	}
	if len(next.endpoints) > 0 {
		select {
		case <-u.found:
		default:
			close(u.found)
		}
	}
}

// expired reports whether a connection has been idle for too long.
func (u *Upstream) expired(since time.Duration) bool {
	d := u.pool.IdleTimeout.D()
	return d > 0 && u.sweeper.Now()-since >= d
}
