package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/upstream/discover"
)

// discover begins to look for endpoints.
func (u *Upstream) discover(d *config.Discovery) error {
	records, ok := u.resolver.(discover.Resolver)
	if !ok {
		records = discover.NewDNS()
	}
	source, err := discover.New(d, records)
	if err != nil {
		return err
	}
	f := &finder{u: u, allowEmpty: d.AllowEmpty, allowLocal: d.AllowLocal, known: make(map[string][]string)}
	if !u.still {
		go func() {
			for u.ctx.Err() == nil && f.watch(source) {
				wait(u.ctx, afterPanic)
			}
		}()
	}
	return nil
}

// afterPanic is how long nothing is looked for after a panic.
const afterPanic = 10 * time.Second

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// watch has a source look for endpoints until the upstream ends, or a panic: an
// answer that nobody thought of must not end the gateway.
func (f *finder) watch(source discover.Source) (panicked bool) {
	defer func() {
		if v := recover(); v != nil {
			f.u.log.Error("a panic while endpoints were looked for", "upstream", f.u.name, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			f.take(nil, fmt.Errorf("panic: %v", v))
			panicked = true
		}
	}()
	source.Watch(f.u.ctx, f.told)
	return false
}

// finder turns what a source tells into endpoints. A failure, or an empty
// answer that is not allowed, changes nothing.
type finder struct {
	u                      *Upstream
	allowEmpty, allowLocal bool
	known                  map[string][]string // last good addresses of names
	failing                bool
	last                   []string
	good                   time.Duration // of the names resolved last, 0 when that is not known
}

var (
	errEmpty = errors.New("no endpoint was found")
	errLocal = errors.New("all addresses found are loopback, link-local or of a metadata service, and allow_local is not set")
)

// told takes what a source found. It returns how long the names in it are good.
func (f *finder) told(found []*config.Endpoint, err error) time.Duration {
	f.good = 0
	f.take(found, err)
	return f.good
}

func (f *finder) take(found []*config.Endpoint, err error) {
	u := f.u
	var sites []*site
	if err == nil {
		sites, err = f.sites(found)
	}
	if err == nil && len(sites) == 0 && !f.allowEmpty {
		err = errEmpty
	}
	if u.ctx.Err() != nil {
		return
	}
	if err != nil {
		if !f.failing {
			u.log.Warn("endpoints of an upstream cannot be found, the last ones stay in use", "upstream", u.name, "error", err)
			u.meter.Event(DiscoveryFailed)
		}
		f.failing = true
		return
	}
	if f.failing {
		f.failing = false
		u.meter.Event(DiscoveryWorked)
	}
	now := make([]string, 0, len(sites))
	for _, s := range sites {
		now = append(now, fmt.Sprint(s.scheme, s.host, s.addresses, s.weight, s.zone, s.priority))
	}
	slices.Sort(now)
	if f.last != nil && slices.Equal(now, f.last) {
		return
	}
	f.last = now
	u.log.Info("endpoints of an upstream were found", "upstream", u.name, "endpoints", len(sites))
	u.mu.Lock()
	u.discovered = sites
	u.mu.Unlock()
	u.rebuild()
}

// sites resolves names and leaves out what is refused.
func (f *finder) sites(found []*config.Endpoint) (out []*site, err error) {
	refused := 0
	var failed error
	known := make(map[string][]string)
	for _, e := range found {
		s, err := parseSite(e)
		if err != nil {
			return nil, err
		}
		if s.name != "" {
			if s.addresses, err = f.resolve(s, known); err != nil {
				failed = err
				continue
			}
		}
		if !f.allowLocal {
			n := len(s.addresses)
			s.addresses = slices.DeleteFunc(slices.Clone(s.addresses), func(a string) bool { return s.network == "unix" || local(a) })
			refused += n - len(s.addresses)
		}
		if len(s.addresses) > 0 {
			out = append(out, s)
		}
	}
	if len(out) > 0 {
		f.known = known
	}
	switch {
	case len(out) == 0 && failed != nil:
		return nil, failed
	case len(out) == 0 && refused > 0:
		return nil, errLocal
	case refused > 0:
		f.u.log.Warn("endpoints that were found are refused: their addresses are local, and allow_local is not set",
			"upstream", f.u.name, "refused", refused)
	}
	return out, nil
}

// resolve returns the addresses of a name, the last good ones when it cannot
// be resolved. That a name does not exist is no failure where an empty answer
// is allowed.
func (f *finder) resolve(s *site, known map[string][]string) ([]string, error) {
	key := net.JoinHostPort(s.name, s.port)
	ctx, cancel := context.WithTimeout(f.u.ctx, resolveTimeout)
	defer cancel()
	addresses, good, err := f.u.lookUp(ctx, s)
	var missing *net.DNSError
	switch {
	case err == nil:
		if good > 0 && (f.good == 0 || good < f.good) {
			f.good = good
		}
	case f.allowEmpty && (errors.Is(err, errNoAddress) || errors.As(err, &missing) && missing.IsNotFound):
		return nil, nil
	case len(f.known[key]) > 0:
		addresses = f.known[key]
	default:
		return nil, err
	}
	known[key] = addresses
	return addresses, nil
}

// local reports whether an address belongs to this machine, to its link, to
// nobody, or to the metadata service of a cloud.
func local(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return true
	}
	a = a.Unmap()
	if a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast() || strings.Contains(host, "%") {
		return true
	}
	for _, m := range metadata() {
		if a == m {
			return true
		}
	}
	return false
}

// metadata are the addresses of metadata services that are not link-local.
func metadata() [3]netip.Addr {
	return [...]netip.Addr{
		netip.MustParseAddr("fd00:ec2::254"),
		netip.MustParseAddr("100.100.100.200"),
		netip.MustParseAddr("192.0.0.192"),
	}
}
