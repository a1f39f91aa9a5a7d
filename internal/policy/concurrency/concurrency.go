// Package concurrency is the policy that bounds how many requests of a key are
// in flight at once. It owns the places and the line of those who wait for
// one; a place is given back when the answer has been sent.
package concurrency

import (
	"errors"
	"hash/maphash"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/key"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "concurrency".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "concurrency", Stage: policy.Admit,
		New: func() policy.Config { return &Config{By: "client", Timeout: policy.Duration(time.Second)} },
		Doc: "Bounds how many requests of a client, consumer, route or any other key are in flight at once.",
	}
}

// Config says how many at once.
type Config struct {
	// Requests in flight at once, upgraded connections included.
	Limit int `yaml:"limit" required:"true" min:"1" max:"1000000"`
	// Whose requests are counted together: client (an IPv6 client is its /64), consumer, route, header:NAME, claim:NAME, or a CEL expression.
	By string `yaml:"by"`
	// Further requests that may wait for a place.
	Queue int `yaml:"queue" min:"0" max:"100000"`
	// How long a request may wait for a place.
	Timeout policy.Duration `yaml:"timeout" min:"1ms" max:"5m"`
}

// Stage is the edge when all that counts is the client's address.
func (c *Config) Stage() policy.Stage { return key.Stage(c.By) }

// Repeatable says that the caps of all levels are in force.
func (*Config) Repeatable() {}

// Compile finds the live places.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	by, f := key.Parse(c.By)
	if f != nil {
		f.Field = "by"
		return nil, f
	}
	l := &limiter{by: by, limit: c.Limit, queue: c.Queue, timeout: c.Timeout.D(), slot: policy.NewSlot[held](env)}
	l.seed = env.Keep("seed", func() any { return maphash.MakeSeed() }).(maphash.Seed)
	l.places = env.Keep(env.At+" "+c.By, func() any { return newPlaces() }).(*places)
	l.refused = refusal{&tooMany, &waited}
	if by.Shared() {
		l.refused = refusal{&busy, &busyWaited}
	}
	return l, nil
}

type refusal struct{ full, late *exchange.Problem }

// By client or consumer the caller has too much under way; by route the
// gateway or the service has.
var (
	tooMany = exchange.Problem{
		Status: 429, Code: "too_many_in_flight", Side: exchange.SideClient, Retry: time.Second,
		Detail: "Too many requests are in flight. Wait for one to end.",
	}
	busy = exchange.Problem{
		Status: 503, Code: "route_busy", Side: exchange.SideGateway, Retry: time.Second,
		Detail: "Too many requests are in flight. Try again later.",
	}
	waited     = *tooMany.With(errors.New("no place came free in time"))
	busyWaited = *busy.With(errors.New("no place came free in time"))
)

var (
	_ policy.OnRequest = (*limiter)(nil)
	_ policy.OnDone    = (*limiter)(nil)
)

type limiter struct {
	by      key.By
	seed    maphash.Seed
	places  *places
	limit   int
	queue   int
	timeout time.Duration
	slot    policy.Slot[held]
	refused refusal
}

// held is the place of one request.
type held struct {
	key uint64
	has bool
}

func (l *limiter) Request(x *exchange.Exchange) policy.Verdict {
	h := l.slot.Get(x)
	h.key = l.by.Hash(x, l.seed)
	ok, w := l.places.take(h.key, l.limit, l.queue)
	switch {
	case ok:
		h.has = true
		return policy.Next
	case w == nil:
		x.Fail(l.refused.full)
		return policy.Stop
	}
	ready, gone := policy.Wait(x, w.ready, l.timeout)
	if !ready && l.places.leave(h.key, w) {
		ready = true // the place came at the very end
	}
	h.has = ready
	switch {
	case gone != nil:
		x.Fail(policy.ClientGone(gone))
		return policy.Stop
	case !ready:
		x.Fail(l.refused.late)
		return policy.Stop
	}
	return policy.Next
}

// Done gives the place back.
func (l *limiter) Done(x *exchange.Exchange) {
	if h := l.slot.Get(x); h.has {
		h.has = false
		l.places.give(h.key, l.limit)
	}
}
