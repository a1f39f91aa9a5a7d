package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/upstream/discover"
)

const (
	// resolveInterval is how often names are resolved, give or take a fifth,
	// so that many upstreams do not ask at the same moment; more often where
	// answers are good for a shorter time.
	resolveInterval = 10 * time.Second
	// resolveAgain is how soon a name without any address is tried again.
	resolveAgain = time.Second
	// resolveTimeout bounds one look-up, and roundTimeout those of all names of
	// an upstream.
	resolveTimeout = 5 * time.Second
	roundTimeout   = 30 * time.Second
	// mostLookUps is how many names of an upstream are looked up at once.
	mostLookUps = 64
)

var errNoAddress = errors.New("answer holds no address")

// resolve keeps the addresses of names fresh until ctx ends.
func (u *Upstream) resolve(ctx context.Context) {
	failing := make([]bool, len(u.sites)) // sites do not come or go
	for {
		changed, good := u.lookUpAll(ctx, failing)
		if ctx.Err() != nil {
			return
		}
		if changed {
			u.rebuild()
		}
		wait := resolveInterval*4/5 + rand.N(resolveInterval*2/5)
		if good > 0 {
			wait = min(wait, discover.Good(good))
		}
		if u.someUnknown() {
			wait = resolveAgain
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

func (u *Upstream) someUnknown() bool {
	return slices.ContainsFunc(u.sites, func(s *site) bool { return len(s.addresses) == 0 })
}

// lookUpAll resolves every name once, and reports whether an answer differs
// from the last good one. A failure, or an answer without addresses, changes
// nothing. good is how long all of the answers are good, 0 when that is not
// known.
func (u *Upstream) lookUpAll(ctx context.Context, failing []bool) (changed bool, good time.Duration) {
	answers := u.lookUpEach(ctx, u.sites)
	if ctx.Err() != nil {
		return false, 0
	}
	for i, s := range u.sites {
		a := &answers[i]
		if a.good > 0 && (good == 0 || a.good < good) {
			good = a.good
		}
		switch {
		case s.name == "":
		case a.err != nil:
			if !failing[i] {
				u.log.Warn("a name of an upstream cannot be resolved, its last addresses stay in use",
					"upstream", u.name, "name", s.name, "addresses", s.addresses, "error", a.err)
				u.meter.Event(DiscoveryFailed)
			}
		case !slices.Equal(a.addresses, s.addresses):
			u.log.Info("a name of an upstream has new addresses",
				"upstream", u.name, "name", s.name, "addresses", a.addresses)
			u.mu.Lock()
			s.addresses, changed = a.addresses, true
			u.mu.Unlock()
			s.finding.set(a.addresses)
		}
		if failing[i] && a.err == nil {
			u.meter.Event(DiscoveryWorked)
		}
		failing[i] = a.err != nil
	}
	u.lost.names.Store(firstFailure(u.sites, answers))
	return changed, good
}

// lost says why endpoints cannot be found at present; nil where they are.
type lost struct{ names, discovery atomic.Pointer[string] }

func (l *lost) String() string {
	for _, p := range []*atomic.Pointer[string]{&l.names, &l.discovery} {
		if why := p.Load(); why != nil {
			return *why
		}
	}
	return ""
}

// firstFailure says which name could not be resolved and why, nil for none.
func firstFailure(sites []*site, answers []answer) *string {
	for i, s := range sites {
		if err := answers[i].err; s.name != "" && err != nil {
			why := s.name + ": " + err.Error()
			return &why
		}
	}
	return nil
}

// answer is what a name was resolved to.
type answer struct {
	addresses []string      // in a stable order
	good      time.Duration // for how long, 0 when that is not known
	err       error
}

// lookUpEach resolves the names of sites, many at once and each name once. It
// begins anywhere, so that a name server that is too slow for all of them is
// not asked for the same ones each time.
func (u *Upstream) lookUpEach(ctx context.Context, sites []*site) []answer {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	answers := make([]answer, len(sites))
	first := make(map[string]int)
	places := make(chan struct{}, mostLookUps)
	var wg sync.WaitGroup
	for _, i := range rand.Perm(len(sites)) {
		s := sites[i]
		if _, ok := first[s.hostport()]; ok || s.name == "" {
			continue
		}
		first[s.hostport()] = i
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			a := &answers[i]
			if a.err = ctx.Err(); a.err == nil {
				a.addresses, a.good, a.err = u.lookUp(ctx, s)
			}
		})
	}
	wg.Wait()
	for i, s := range sites {
		if s.name != "" {
			answers[i] = answers[first[s.hostport()]]
		}
	}
	return answers
}

// lookUp returns the addresses of a name in a stable order, and how long they
// are good, 0 when that is not known.
func (u *Upstream) lookUp(ctx context.Context, s *site) (addresses []string, good time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var found []netip.Addr
	if d, ok := u.resolver.(*discover.DNS); ok {
		found, good, err = d.Addresses(ctx, s.name)
	} else {
		found, err = u.resolver.LookupNetIP(ctx, "ip", s.name)
	}
	if err != nil {
		return nil, 0, err
	}
	addresses = make([]string, 0, len(found))
	for _, a := range found {
		addresses = append(addresses, net.JoinHostPort(a.Unmap().String(), s.port))
	}
	if len(addresses) == 0 {
		return nil, 0, errNoAddress
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), good, nil
}
