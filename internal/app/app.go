// Package app wires the rooms together and runs them: it is the only package
// that knows all of them. It owns the life of the process: start, reload,
// drain, stop.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/admin"
	"gatehouse.dev/gatehouse/internal/certs"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/consumer"
	"gatehouse.dev/gatehouse/internal/front"
	"gatehouse.dev/gatehouse/internal/gateway"
	"gatehouse.dev/gatehouse/internal/observe"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/upstream"
	"gatehouse.dev/gatehouse/internal/wire"
)

// Catalog returns the kinds of policies that this build has.
func Catalog() *policy.Catalog { return all.Catalog() }

// Source is where the configuration comes from.
type Source struct {
	Path string // a file or folder, watched for changes
	Name string // what stands for the path in messages when Data is used
	Data []byte // a configuration that never changes, used when Path is empty
}

func (s Source) load() (cfg *config.Config, faults config.Faults) {
	if s.Path == "" {
		return config.Parse(s.Name, s.Data, Catalog())
	}
	whole(func() digest { return fingerprint(s.Path) }, func() { cfg, faults = config.Load(s.Path, Catalog()) })
	return cfg, faults
}

// ErrCut says that requests were still in flight when the drain ended.
var ErrCut = errors.New("requests in flight were cut")

// App is a running gateway.
type App struct {
	source  Source
	version string

	log     *observe.Log
	metrics *observe.Metrics
	callers *consumer.Index
	sweeper *wire.Sweeper
	certs   *certs.Store
	gateway *gateway.Gateway
	front   *front.Front
	ready   atomic.Bool
	started time.Time
	life    context.Context // until the gateway ends
	end     context.CancelFunc
	late    sync.WaitGroup // who waits for that, or less long

	mu      sync.Mutex // one change at a time; guards what follows
	cfg     *config.Config
	secrets []string // files
	logs    *accessLog
	stores  stores
	admin   *admin.Server
	status  admin.Reload
}

// New loads the configuration and starts to serve it. With a fault nothing is
// started, and the error is config.Faults.
func New(source Source, version string, stderr io.Writer) (*App, error) {
	cfg, faults := source.load()
	if faults.Fatal() {
		return nil, examine(cfg, faults)
	}
	a := &App{source: source, version: version, started: time.Now(), secrets: cfg.SecretFiles()}
	a.life, a.end = context.WithCancel(context.Background())
	a.log = observe.NewLog(cfg.Observe.Log, stderr)
	a.metrics = observe.NewMetrics(cfg.Observe.Metrics)
	a.callers = consumer.New()
	a.sweeper = wire.NewSweeper()
	a.certs = certs.New(certs.Options{Log: a.log.Logger})
	memory := upstream.NewMemory()
	a.gateway = gateway.New(gateway.Deps{
		Log: a.log.Logger, Metrics: a.metrics, Service: a.service, Challenge: a.certs.HTTPChallenge,
		Upstream: func(name string, cfg *config.Upstream) (gateway.Upstream, error) {
			return upstream.New(name, cfg, upstream.Options{Sweeper: a.sweeper, Log: a.log.Logger, Meter: a.metrics.Upstream(name), Memory: memory})
		},
	})
	a.metrics.Endpoints(a.endpoints)
	a.metrics.Certificates(a.expiries)
	a.front = front.New(front.Options{
		Handler: a.gateway.Serve, Refused: a.gateway.Refused, Pass: a.gateway.Pass,
		Metrics: a.metrics, Log: a.log.Logger, Sweeper: a.sweeper,
	})
	a.mu.Lock()
	faults = a.apply(cfg, faults)
	a.mu.Unlock()
	if faults.Fatal() {
		a.Close(context.Background())
		return nil, faults
	}
	a.ready.Store(true)
	return a, nil
}

// Reload reads the configuration again and applies it. With a fault nothing
// changes, and log, metrics and status say so. One that says the same as
// before is applied only where somebody asked for it: files that it names may
// hold something else. The access log is opened again in any case: whoever
// rotated it waits for nothing else.
func (a *App) Reload(asked bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reopen()
	cfg, faults := a.source.load()
	if cfg != nil {
		a.secrets = cfg.SecretFiles()
	}
	if !faults.Fatal() {
		if !asked && cfg.Digest() == a.cfg.Digest() {
			a.log.Info("configuration is unchanged", "digest", cfg.Digest())
			return
		}
		if faults = a.apply(cfg, faults); !faults.Fatal() {
			return
		}
	} else {
		faults = examine(cfg, faults)
	}
	a.metrics.Reload(false, a.cfg.Digest())
	a.status = admin.Reload{Time: time.Now(), OK: false, Digest: a.cfg.Digest(), Faults: faults}
	a.log.Error("configuration was not applied, the last good one stays", "faults", len(faults), "digest", a.cfg.Digest())
	for _, f := range faults {
		a.log.Error("fault in the configuration", "fault", f.Error())
	}
}

// Files lists what the configuration is read from: its file or folder, and the
// files of its secrets, those of one that was refused too.
func (a *App) Files() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string{a.source.Path}, a.secrets...)
}

// Reopen opens the access log again, and leaves the configuration as it is: for
// a gateway that drains.
func (a *App) Reopen() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reopen()
	a.log.Info("the configuration is not read again while draining")
}

func (a *App) reopen() {
	if err := a.logs.reopen(); err != nil {
		a.log.Error("the access log was not opened again, the old file stays", "error", err)
	}
}

// apply makes a decoded configuration the live one, or returns faults and
// changes nothing. New sockets open first, then the snapshot is swapped, then
// what nobody asks for any more ends.
func (a *App) apply(cfg *config.Config, faults config.Faults) config.Faults {
	fail := func(path string, err error) config.Faults {
		return append(faults, cfg.Fault(path, err.Error(), ""))
	}
	old := a.logs
	logs, err := a.openLogs(cfg)
	if err != nil {
		return fail("observe.access_log.output", err)
	}
	a.logs = logs
	oldStores := a.stores
	stores, where, err := a.openStores(cfg)
	if err != nil {
		a.logs = old
		logs.release(old)
		return fail(where, err)
	}
	a.stores = stores
	a.metrics.Configure(cfg.Observe.Metrics)
	undo := func() {
		if a.cfg != nil {
			a.metrics.Configure(a.cfg.Observe.Metrics)
		}
		a.logs = old
		logs.release(old)
		a.stores = oldStores
		stores.release(oldStores)
	}
	callers, more := a.callers.Prepare(cfg)
	faults = append(faults, more...)
	pending, more := a.gateway.Compile(cfg)
	if faults = append(faults, more...); faults.Fatal() {
		if pending != nil {
			pending.Discard()
		}
		undo()
		return faults
	}
	pairs, more := a.certs.Prepare(cfg)
	faults = append(faults, more...)
	if pairs == nil {
		pending.Discard()
		undo()
		return faults
	}
	change, err := a.front.Prepare(cfg.Listeners, pairs.Set)
	if err != nil {
		pairs.Discard()
		pending.Discard()
		undo()
		var where *front.Error
		path := "listeners"
		if errors.As(err, &where) {
			path = fmt.Sprintf("listeners[%d].address", where.Index)
		}
		return fail(path, err)
	}
	adm, err := a.openAdmin(cfg.Admin)
	if err != nil {
		change.Discard()
		pairs.Discard()
		pending.Discard()
		undo()
		return fail("admin.address", err)
	}

	callers.Commit()
	pending.Commit()
	change.Commit()
	pairs.Commit()
	if a.admin != adm {
		a.admin.Close()
		a.admin = adm
	}
	old.release(logs)
	a.retire(oldStores, stores)
	a.metrics.Redis(stores.answers())
	a.cfg = cfg
	a.log.Configure(cfg.Observe.Log)
	a.metrics.Reload(true, cfg.Digest())
	a.status = admin.Reload{Time: time.Now(), OK: true, Digest: cfg.Digest(), Faults: faults}
	for _, f := range faults {
		a.log.Warn("warning in the configuration", "warning", f.Error())
	}
	a.log.Info("configuration applied", "digest", cfg.Digest(), "routes", len(cfg.Routes), "listeners", len(cfg.Listeners))
	return faults
}

// openAdmin returns the server of the admin address: the running one when the
// address stays, nil when it is off.
func (a *App) openAdmin(cfg *config.Admin) (*admin.Server, error) {
	if cfg == nil || cfg.Off {
		return nil, nil
	}
	if a.admin != nil && a.admin.Address() == cfg.Address {
		return a.admin, nil
	}
	return admin.Listen(cfg.Address, admin.Deps{
		Metrics: a.metrics.Handler(), Ready: a.ready.Load, Status: a.Status, Log: a.log.Logger,
	})
}

// endpoints tells the metrics how the endpoints of all upstreams are.
func (a *App) endpoints(yield func(upstream, state string, n int)) {
	for name, up := range a.gateway.Snapshot().Upstreams {
		u, ok := up.(*upstream.Upstream)
		if !ok {
			continue
		}
		counts := map[string]int{"healthy": 0, "unhealthy": 0, "ejected": 0}
		for _, e := range u.Status().Endpoints {
			counts[e.State]++
		}
		for state, n := range counts {
			yield(name, state, n)
		}
	}
}

// expiries tells the metrics when the certificates expire. One that is not to
// be had has no time.
func (a *App) expiries(yield func(source, name string, expires time.Time)) {
	for _, c := range a.certs.Status() {
		if c.Expires.IsZero() {
			continue
		}
		name := ""
		if len(c.Names) > 0 {
			name = c.Names[0]
		}
		yield(c.Source, name, c.Expires)
	}
}

// Status tells how the gateway is.
func (a *App) Status() admin.Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := admin.Status{Version: a.version, Started: a.started, Reload: a.status}
	if a.cfg != nil {
		s.Digest, s.Routes = a.cfg.Digest(), len(a.cfg.Routes)
	}
	for _, l := range a.front.Listeners() {
		s.Listeners = append(s.Listeners, admin.Listener(l))
	}
	ups := a.gateway.Snapshot().Upstreams
	for _, name := range slices.Sorted(maps.Keys(ups)) {
		if u, ok := ups[name].(*upstream.Upstream); ok {
			s.Upstreams = append(s.Upstreams, u.Status())
		}
	}
	for _, c := range a.certs.Status() {
		s.Certificates = append(s.Certificates, c)
	}
	return s
}

// Drain stops the gateway gently: it says that it is not ready, waits for
// balancers to notice, stops listening, and lets requests in flight finish. It
// returns ErrCut when some did not in time. When ctx ends it waits no longer.
func (a *App) Drain(ctx context.Context) error {
	a.ready.Store(false)
	a.mu.Lock()
	limits := a.cfg.Shutdown
	a.mu.Unlock()
	a.log.Info("draining", "delay", limits.Delay.D(), "limit", limits.Drain.D())
	if d := limits.Delay.D(); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limits.Drain.D())
	defer cancel()
	cut := a.front.Drain(ctx)
	a.Close(ctx)
	if cut > 0 {
		a.log.Warn("stopped with requests in flight", "connections", cut)
		return ErrCut
	}
	a.log.Info("stopped")
	return nil
}

// Close ends everything at once.
func (a *App) Close(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	a.front.Drain(ctx)
	a.gateway.Close()
	a.certs.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.admin != nil {
		a.admin.Close()
	}
	a.logs.release(nil)
	a.stores.release(stores{})
	a.end()
	a.late.Wait()
	a.sweeper.Close()
}
