package jose

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Source keeps the key set of an issuer fresh. One goroutine loads it: at the
// start, from time to time, and when a token names a key that the set does not
// have, but not more often than the cool-down allows. While the issuer does
// not answer the keys that are there stay good.
type Source struct {
	load     func(context.Context) (*Set, error)
	log      *slog.Logger
	refresh  time.Duration
	cooldown time.Duration
	patience time.Duration // of a request that waits for keys

	set    atomic.Pointer[Set]
	wanted chan struct{}
	stop   context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	last    time.Time     // of the last attempt
	attempt chan struct{} // closed when the attempt that runs, or else the next one, has ended
}

// Timing says how often a source loads.
type Timing struct {
	Refresh  time.Duration // between loads when all is well
	Cooldown time.Duration // the least time between loads that tokens cause
	Patience time.Duration // how long a request waits for keys at most
	Still    bool          // nothing is ever loaded
}

// ErrUnavailable says that the keys of an issuer are not known.
var ErrUnavailable = errors.New("the keys of the issuer could not be loaded yet")

// NewSource starts to load. Retire ends it.
func NewSource(log *slog.Logger, t Timing, load func(context.Context) (*Set, error)) *Source {
	ctx, stop := context.WithCancel(context.Background())
	s := &Source{
		load: load, log: log, refresh: t.Refresh, cooldown: t.Cooldown, patience: t.Patience,
		wanted: make(chan struct{}, 1), stop: stop, ended: make(chan struct{}), attempt: make(chan struct{}),
	}
	if t.Still {
		close(s.ended)
		return s
	}
	go s.run(ctx)
	return s
}

// Retire ends the loading, and waits for its end.
func (s *Source) Retire() {
	s.stop()
	<-s.ended
}

func (s *Source) run(ctx context.Context) {
	defer close(s.ended)
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		next, err := s.load(ctx)
		s.mu.Lock()
		if err == nil {
			s.replace(next)
		}
		s.last = time.Now()
		select {
		case <-s.wanted: // who wanted it while it ran has it now
		default:
		}
		close(s.attempt)
		s.attempt = make(chan struct{})
		s.mu.Unlock()
		wait := s.refresh
		if err != nil && ctx.Err() == nil {
			backoff = min(max(2*backoff, time.Second), time.Minute)
			wait = backoff
			s.log.Warn("the keys of an issuer could not be loaded", "error", err, "known", s.set.Load() != nil, "again_in", wait)
		} else {
			backoff = 0
		}
		// Gateways that start together do not ask together.
		t := time.NewTimer(wait - time.Duration(rand.Int64N(int64(wait)/10+1)))
		select {
		case <-t.C:
		case <-s.wanted:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// replace makes a set the current one. Keys that it still has stay the same
// objects; the others are gone, and with them whatever they verified.
func (s *Source) replace(next *Set) {
	old := s.set.Load()
	if old == nil {
		s.set.Store(next)
		return
	}
	merged := &Set{keys: make([]*Key, len(next.keys))}
	kept := make(map[*Key]bool)
	for i, k := range next.keys {
		merged.keys[i] = k
		for _, o := range old.keys {
			if o.Thumb == k.Thumb && o.ID == k.ID && o.Alg == k.Alg {
				merged.keys[i] = o
				kept[o] = true
			}
		}
	}
	s.set.Store(merged)
	for _, o := range old.keys {
		if !kept[o] {
			o.gone.Store(true)
		}
	}
}

// Set returns the current set, nil when none has been loaded.
func (s *Source) Set() *Set { return s.set.Load() }

// Find returns the keys that a token may have been signed with. For a kid that
// is not known it has the set loaded again, unless that happened a short while
// ago, and waits for it.
func (s *Source) Find(kid, alg string) ([]*Key, error) {
	set := s.set.Load()
	if set != nil && (kid == "" || set.Names(kid)) {
		return set.Find(kid, alg), nil
	}
	if attempt := s.want(); attempt != nil {
		t := time.NewTimer(s.patience)
		defer t.Stop()
		select {
		case <-attempt:
		case <-t.C:
		case <-s.ended:
		}
	}
	if set = s.set.Load(); set == nil {
		return nil, ErrUnavailable
	}
	return set.Find(kid, alg), nil
}

// want has the set loaded and returns what is closed once it is, or nil where
// that is not due: the first attempt always is, others only after the cool-down,
// whether the last one ended well or not.
func (s *Source) want() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.last.IsZero():
		return s.attempt
	case time.Since(s.last) < s.cooldown:
		return nil
	}
	select {
	case s.wanted <- struct{}{}:
	default:
	}
	return s.attempt
}
