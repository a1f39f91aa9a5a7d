package identify

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

const retryUnavailable = time.Second

// Attempts limits guessing: how many wrong credentials are looked at in a time.
type Attempts struct {
	// Wrong credentials of one client address, for IPv6 its /64, before it is answered 429. 0 means no limit.
	Client policy.Rate `yaml:"client"`
	// Wrong attempts at one credential, such as a user name, before it is answered 429, whoever asks; those of a client that has shown the right one within a day count by themselves. 0 means no limit.
	Credential policy.Rate `yaml:"credential"`
}

// DefaultAttempts are far from what people mistype and useless for guessing.
func DefaultAttempts() Attempts {
	return Attempts{
		Client:     policy.Rate{Count: 30, Per: time.Minute},
		Credential: policy.Rate{Count: 100, Per: time.Hour},
	}
}

// parts of a guard, and the most entries of one. What is there beyond it gives
// way where the fewest attempts are counted.
const (
	guardParts = 32
	mostInPart = 2048
	knownFor   = 24 * time.Hour // a client that has shown a credential
)

// Guard counts wrong credentials. It lives on over reloads, and one guard
// serves all uses of a kind with the same limits: to try another route is no
// way around it.
type Guard struct {
	limits  Attempts
	seed    maphash.Seed
	entries atomic.Int64 // 0 for as long as nobody failed: then nothing is looked up
	parts   [guardParts]guardPart
}

type guardPart struct {
	mu    sync.Mutex
	m     map[guardKey]attempts
	sweep int64 // when to look for entries that are over

	// Clients that have shown a credential, and until when that counts, by
	// exchange.Now. Others cannot lock them out of it by guesses.
	known map[guardKey]int64
}

// guardKey is a client, a credential, or a credential for a client.
type guardKey struct {
	addr       netip.Addr
	credential uint64 // a hash
}

type attempts struct {
	count int64
	until int64 // by exchange.Now
}

// KeptGuard returns the guard of a kind and its limits.
func KeptGuard(env *policy.Env, a Attempts) *Guard {
	return env.Keep("guard "+a.Client.String()+" "+a.Credential.String(), func() any {
		return NewGuard(a)
	}).(*Guard)
}

// NewGuard returns a guard that has counted nothing.
func NewGuard(a Attempts) *Guard {
	g := &Guard{limits: a, seed: maphash.MakeSeed()}
	for i := range g.parts {
		g.parts[i].m = make(map[guardKey]attempts)
		g.parts[i].known = make(map[guardKey]int64)
	}
	return g
}

// blockedClient returns how long the client has to wait, 0 when it need not.
func (g *Guard) blockedClient(x *exchange.Exchange) time.Duration {
	if g.entries.Load() == 0 || g.limits.Client.Count == 0 {
		return 0
	}
	key, ok := clientKey(x)
	if !ok {
		return 0
	}
	return g.blocked(key, g.limits.Client)
}

// Blocked is the problem of a credential at which there were too many wrong
// attempts, nil when there were not. Methods ask before they do costly work.
func (g *Guard) Blocked(x *exchange.Exchange, credential string) error {
	if g == nil || g.entries.Load() == 0 || g.limits.Credential.Count == 0 {
		return nil
	}
	if wait := g.blocked(g.credentialKey(x, credential), g.limits.Credential); wait > 0 {
		return tooMany(wait, "the credential")
	}
	return nil
}

// Proved says that a client has shown a credential. Methods say it when they
// have done the work, and need not when they only remember that they did.
func (g *Guard) Proved(x *exchange.Exchange, credential string) {
	if g == nil || g.limits.Credential.Count == 0 {
		return
	}
	key, ok := clientKey(x)
	if !ok {
		return
	}
	key.credential = g.sum(credential)
	p := g.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.known[key]; !ok && len(p.known) >= mostInPart {
		for any := range p.known {
			delete(p.known, any)
			break
		}
	}
	p.known[key] = exchange.Now() + int64(knownFor)
}

func (g *Guard) isKnown(key guardKey) bool {
	p := g.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.known[key]
	if ok && exchange.Now() >= until {
		delete(p.known, key)
		ok = false
	}
	return ok
}

func (g *Guard) blocked(key guardKey, limit policy.Rate) time.Duration {
	p := g.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.m[key]
	now := exchange.Now()
	switch {
	case !ok:
		return 0
	case now >= a.until:
		delete(p.m, key)
		g.entries.Add(-1)
		return 0
	case a.count < limit.Count:
		return 0
	}
	return time.Duration(a.until - now)
}

// fail counts a wrong credential.
func (g *Guard) fail(x *exchange.Exchange, credential string) {
	if key, ok := clientKey(x); ok && g.limits.Client.Count > 0 {
		g.count(key, g.limits.Client)
	}
	if credential != "" && g.limits.Credential.Count > 0 {
		g.count(g.credentialKey(x, credential), g.limits.Credential)
	}
}

func (g *Guard) count(key guardKey, limit policy.Rate) {
	p := g.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := exchange.Now()
	if now >= p.sweep {
		p.sweep = now + int64(10*time.Second)
		for k, a := range p.m {
			if now >= a.until {
				delete(p.m, k)
				g.entries.Add(-1)
			}
		}
	}
	a, ok := p.m[key]
	if !ok {
		if len(p.m) >= mostInPart {
			g.evict(p)
		}
		g.entries.Add(1)
	}
	if !ok || now >= a.until {
		a = attempts{until: now + int64(limit.Per)}
	}
	a.count++
	p.m[key] = a
}

// evict makes room: of a few entries, picked at random, the one with the
// fewest attempts goes.
func (g *Guard) evict(p *guardPart) {
	var least guardKey
	var fewest int64 = -1
	looked := 0
	for k, a := range p.m {
		if fewest < 0 || a.count < fewest {
			least, fewest = k, a.count
		}
		if looked++; looked == 16 {
			break
		}
	}
	delete(p.m, least)
	g.entries.Add(-1)
}

func (g *Guard) part(key guardKey) *guardPart {
	return &g.parts[maphash.Comparable(g.seed, key)%guardParts]
}

// credentialKey is what attempts at a credential are counted by: for a client that
// is known to have shown it, its own.
func (g *Guard) credentialKey(x *exchange.Exchange, credential string) guardKey {
	sum := g.sum(credential)
	if key, ok := clientKey(x); ok {
		if key.credential = sum; g.isKnown(key) {
			return key
		}
	}
	return guardKey{credential: sum}
}

func (g *Guard) sum(credential string) uint64 { return maphash.String(g.seed, credential) | 1 }

// clientKey is what stands for a client: its address, or for IPv6 the network
// that one customer usually has. Clients on a unix socket have none.
func clientKey(x *exchange.Exchange) (guardKey, bool) {
	addr := x.Client.Addr.Addr().Unmap()
	if !addr.IsValid() {
		return guardKey{}, false
	}
	if addr.Is6() {
		if p, err := addr.WithZone("").Prefix(64); err == nil {
			addr = p.Addr()
		}
	}
	return guardKey{addr: addr}, true
}

func tooMany(wait time.Duration, who string) *exchange.Problem {
	return &exchange.Problem{
		Status: 429, Code: "too_many_attempts", Side: exchange.SideClient, Retry: wait,
		Detail: "There were too many wrong credentials. Try again later.",
		Cause:  fmt.Errorf("%s had too many wrong attempts, for %v more", who, wait.Round(time.Second)),
	}
}
