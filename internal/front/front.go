// Package front owns the listeners: it opens and closes the sockets, accepts
// connections and hands each to the engine that speaks its protocol. It knows
// nothing of routes, policies or upstreams.
package front

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"gatehouse.dev/gatehouse/internal/certs"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/observe"
	"gatehouse.dev/gatehouse/internal/wire"
)

// Options is what a Front is built from.
type Options struct {
	Handler func(*exchange.Exchange) // serves an exchange
	Refused func(*exchange.Exchange) // reports one that an engine refused by itself
	// Pass passes a connection on that the listener does not open, and reports
	// it. Unless it sets x.Response.HeadSent it leaves the stream alone.
	Pass    func(x *exchange.Exchange, client exchange.Stream)
	Metrics *observe.Metrics
	Log     *slog.Logger
	Sweeper *wire.Sweeper
}

// Front is the set of open listeners.
type Front struct {
	o    Options
	mu   sync.Mutex
	open map[string]*listener // by what socketKeys says
	old  []*listener          // closed, with connections that still finish

	stopped bool // Drain was called
}

// New returns a front without listeners.
func New(o Options) *Front {
	return &Front{o: o, open: make(map[string]*listener)}
}

// Change is a new set of listeners whose sockets are open but not yet served.
// Exactly one of Commit and Discard must be called.
type Change struct {
	f     *Front
	cfgs  []*config.Listener
	keys  []string // of their sockets
	sets  Sets
	fresh map[string]*listener
	quic  map[string]*h3 // for listeners that had none
}

// Sets gives the certificates of a listener, nil for one without TLS.
type Sets func(*config.Listener) *certs.Set

// Error says which listener could not be opened.
type Error struct {
	Index int // position in the configuration
	Err   error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

var errStopping = errors.New("the gateway is stopping")

// Prepare opens the sockets that the configuration asks for and that are not
// open yet. Nothing else changes before Commit.
func (f *Front) Prepare(cfgs []*config.Listener, sets Sets) (*Change, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &Change{f: f, cfgs: cfgs, keys: f.socketKeys(cfgs), sets: sets, fresh: make(map[string]*listener), quic: make(map[string]*h3)}
	if f.stopped {
		return nil, errStopping
	}
	for i, cfg := range cfgs {
		if err := c.open(c.keys[i], cfg); err != nil {
			c.Discard()
			return nil, &Error{i, fmt.Errorf("listen on %q: %w", cfg.Address, err)}
		}
	}
	return c, nil
}

// open opens the sockets of a listener that are not open yet.
func (c *Change) open(key string, cfg *config.Listener) (err error) {
	l := c.f.open[key]
	if l == nil {
		l = c.fresh[key]
	}
	if l == nil {
		if l, err = c.listen(cfg.Address); err != nil {
			return err
		}
		c.fresh[key] = l
	}
	if cfg.Speaks("http3") && l.quic == nil && c.quic[key] == nil {
		c.quic[key], err = openH3(l, h3settingsOf(cfg, c.sets(cfg), c.f.o.Metrics))
	}
	return err
}

// Discard closes the sockets that Prepare opened.
func (c *Change) Discard() {
	for _, l := range c.fresh {
		l.close()
	}
	for _, h := range c.quic {
		if h != nil {
			h.close()
			h.drain()
		}
	}
}

// Commit gives the listeners their settings, begins to accept on new ones and
// drains those that are gone. A listener whose address stays keeps its socket;
// connections keep running under settings that did not change.
func (c *Change) Commit() {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		c.Discard()
		return
	}
	wanted := make(map[string]bool)
	for i, cfg := range c.cfgs {
		key := c.keys[i]
		wanted[key] = true
		l := f.open[key]
		if l == nil {
			l = c.fresh[key]
			f.open[key] = l
		}
		l.configure(cfg, c.sets(cfg), c.quic[key])
		if c.fresh[key] != nil {
			l.serve()
			f.o.Log.Info("listening", "listener", cfg.Name, "address", l.ln.Addr().String())
		}
	}
	for key, l := range f.open {
		if !wanted[key] {
			delete(f.open, key)
			f.old = append(f.old, l)
			l.close()
			l.drain()
			f.o.Log.Info("listener closed", "listener", l.name(), "address", l.address())
		}
	}
	f.old = alive(f.old)
}

func alive(list []*listener) []*listener {
	out := list[:0]
	for _, l := range list {
		if l.connections() > 0 {
			out = append(out, l)
		}
	}
	clear(list[len(out):])
	return out
}

// Status is a listener as the status page shows it.
type Status struct {
	Name        string `json:"name"`
	Address     string `json:"address"` // the one really bound, with its port
	Connections int    `json:"connections"`
}

// Listeners returns the open listeners.
func (f *Front) Listeners() []Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Status, 0, len(f.open))
	for _, l := range f.open {
		out = append(out, Status{l.name(), l.address(), l.connections()})
	}
	return out
}

// Drain closes every listener, lets the requests in flight finish until ctx
// ends, and then cuts the rest. It returns how many connections were cut.
func (f *Front) Drain(ctx context.Context) (cut int) {
	f.mu.Lock()
	all := f.old
	for key, l := range f.open {
		delete(f.open, key)
		all = append(all, l)
	}
	f.old = nil
	f.stopped = true
	f.mu.Unlock()
	for _, l := range all {
		l.close()
	}
	for _, l := range all {
		l.drain()
	}
	for _, l := range all {
		cut += l.wait(ctx)
	}
	return cut
}
