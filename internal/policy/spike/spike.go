// Package spike is the policy that smooths: requests that come together are
// sent on one after the other. It owns the line in which they stand, and
// refuses what would stand in it too long.
package spike

import (
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/key"
	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "spike".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "spike", Stage: policy.Admit,
		New: func() policy.Config {
			return &Config{By: "route", MaxDelay: policy.Duration(500 * time.Millisecond), MaxKeys: 100_000}
		},
		Doc: "Smooths spikes: requests that come together are sent on at an even pace.",
	}
}

// Config says at which pace.
type Config struct {
	// The pace: 100/s sends a request every 10 milliseconds.
	Rate policy.Rate `yaml:"rate" required:"true" example:"100/s"`
	// Longest time that a request is held back; one that would wait longer is answered 429.
	MaxDelay policy.Duration `yaml:"max_delay" max:"1m"`
	// Whose requests stand in one line: route, client, consumer, header:NAME, claim:NAME, or a CEL expression.
	By string `yaml:"by"`
	// Lines that are remembered. When more are active at once, new ones are shared.
	MaxKeys int `yaml:"max_keys" min:"1000" max:"50000000"`
}

// Stage is the edge for lines by client.
func (c *Config) Stage() policy.Stage { return key.Stage(c.By) }

// Repeatable says that the paces of all levels are kept.
func (*Config) Repeatable() {}

// Compile finds the live lines.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	s := &smoother{slot: policy.NewSlot[exchange.Problem](env), most: int64(c.MaxDelay.D())}
	var faults []error
	if c.Rate.Count == 0 {
		faults = append(faults, &policy.Fault{Field: "rate", Text: "at this pace no request is ever sent on", Hint: "write 100/s"})
	} else if s.interval = (int64(c.Rate.Per) + c.Rate.Count - 1) / c.Rate.Count; s.interval < int64(limit.FastestUnit) {
		faults = append(faults, &policy.Fault{Field: "rate", Text: fmt.Sprintf("%s is faster than 1000000/s", c.Rate)})
	}
	by, f := key.Parse(c.By)
	if f != nil {
		f.Field = "by"
		faults = append(faults, f)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	s.by = by
	s.seed = env.Keep("seed", func() any { return maphash.MakeSeed() }).(maphash.Seed)
	s.clock = env.Keep("clock", func() any { return limit.NewClock() }).(*limit.Clock)
	s.lines = env.Keep(env.At+" "+c.By, func() any { return limit.NewBuckets(c.MaxKeys) }).(*limit.Buckets)
	s.lines.Room(c.MaxKeys)
	return s, nil
}

var refused = exchange.Problem{
	Status: 429, Code: "spike_arrested", Side: exchange.SideClient,
	Detail: "Too many requests at once. Try again later.",
}

var _ policy.OnRequest = (*smoother)(nil)

type smoother struct {
	by       key.By
	seed     maphash.Seed
	clock    *limit.Clock
	lines    *limit.Buckets
	slot     policy.Slot[exchange.Problem]
	interval int64
	most     int64
}

// shortest is the shortest wait worth it, in nanoseconds: to go to sleep and
// wake up takes about as long. What is not waited for now counts later.
const shortest = int64(20 * time.Microsecond)

func (s *smoother) Request(x *exchange.Exchange) policy.Verdict {
	wait, over := s.lines.Delay(s.by.Hash(x, s.seed), s.interval, s.most, s.clock.Now())
	switch {
	case over > 0:
		p := s.slot.Get(x)
		*p = refused
		p.Retry = time.Duration(over)
		x.Fail(p)
		return policy.Stop
	case wait < shortest:
		return policy.Next
	}
	if gone := policy.Sleep(x, time.Duration(wait)); gone != nil {
		x.Fail(policy.ClientGone(gone))
		return policy.Stop
	}
	return policy.Next
}
