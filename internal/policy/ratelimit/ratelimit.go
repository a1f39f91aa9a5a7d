// Package ratelimit is the policy that bounds how often something may be
// asked for. It owns who is counted together, what a request costs, and what a
// refused client is told; the arithmetic is in package limit. It refuses to
// keep what identifies a client: keys are hashes.
package ratelimit

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/key"
	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "rate_limit".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "rate_limit", Stage: policy.Admit,
		New: func() policy.Config {
			return &Config{
				By: "client", Algorithm: "gcra", Cost: 1, Headers: true, Store: "local", OnFailure: "local", Share: 1,
				Timeout: policy.Duration(50 * time.Millisecond), MaxKeys: 200_000,
			}
		},
		Doc: "Bounds how many requests a client, consumer, route or any other key may make in a time.",
	}
}

// Config is one limit, or several of which all have to allow a request.
type Config struct {
	// How many requests in which time.
	Limit policy.Rate `yaml:"limit" example:"100/m"`
	// How many of them at once. Default: as many as the limit says. An exact window has no burst of its own.
	Burst int64 `yaml:"burst" min:"0" max:"100000000"`
	// Whose requests are counted together: client (an IPv6 client is its /64), consumer, route, header:NAME, claim:NAME, or a CEL expression. A request without the consumer, header or claim is counted by its client.
	By string `yaml:"by"`
	// gcra lets requests through at an even rate after the burst; window lets no more than the limit through in any stretch of the time.
	Algorithm string `yaml:"algorithm" enum:"gcra,window"`
	// What a request costs.
	Cost int64 `yaml:"cost" min:"1" max:"1000000"`
	// A field of the upstream's answer that says what the request did cost. It is taken off the answer, and the difference is charged or given back.
	CostHeader string `yaml:"cost_header" example:"X-Cost"`
	// Name of the limit in the RateLimit fields.
	Name string `yaml:"name"`
	// Several limits instead of one.
	Limits []*Limit `yaml:"limits"`
	// Only count, log and tell in the RateLimit fields what would be refused.
	DryRun bool `yaml:"dry_run"`
	// Tell clients about limits in the RateLimit and RateLimit-Policy fields.
	Headers bool `yaml:"headers"`
	// Where counts are kept: local is this gateway's memory, redis what "redis" of the configuration names.
	Store string `yaml:"store" enum:"local,redis"`
	// What to do while Redis does not answer: local counts here, against this gateway's share; open lets requests pass; closed answers 503.
	OnFailure string `yaml:"on_failure" enum:"local,open,closed"`
	// This gateway's share of the limits while Redis does not answer: with three gateways a third.
	Share policy.Percent `yaml:"share"`
	// How long to wait for Redis.
	Timeout policy.Duration `yaml:"timeout" min:"1ms" max:"10s"`
	// Keys that are remembered for each limit. When more are active at once, new ones share their counts.
	MaxKeys int `yaml:"max_keys" min:"1000" max:"50000000"`
}

// Limit is one of several limits.
type Limit struct {
	// How many requests in which time.
	Limit policy.Rate `yaml:"limit" required:"true" example:"100/m"`
	// How many of them at once. Default: as many as the limit says.
	Burst int64 `yaml:"burst" min:"0" max:"100000000"`
	// Whose requests are counted together. Default: rate_limit.by.
	By string `yaml:"by"`
	// gcra or window. Default: rate_limit.algorithm.
	Algorithm string `yaml:"algorithm" enum:"gcra,window"`
	// What a request costs. Default: rate_limit.cost.
	Cost int64 `yaml:"cost" min:"1" max:"1000000"`
	// Name of the limit in the RateLimit fields. Default: its place in the list.
	Name string `yaml:"name"`
}

// Repeatable says that limits of all levels are in force.
func (*Config) Repeatable() {}

// Stage is the edge when all that counts is the client's address: a flood is
// turned away before anything is done for it.
func (c *Config) Stage() policy.Stage {
	for _, l := range c.list() {
		if key.Stage(l.By) != policy.Edge {
			return policy.Admit
		}
	}
	return policy.Edge
}

// mostLimits of one policy.
const mostLimits = 8

// list returns the limits, each with all that it says, or the policy says for it.
func (c *Config) list() []*Limit {
	if c.Limits != nil {
		list := make([]*Limit, len(c.Limits))
		for i, l := range c.Limits {
			list[i] = &Limit{
				Limit: l.Limit, Burst: l.Burst, Name: l.Name,
				By: cmp.Or(l.By, c.By), Algorithm: cmp.Or(l.Algorithm, c.Algorithm), Cost: cmp.Or(l.Cost, c.Cost),
			}
		}
		return list
	}
	return []*Limit{{Limit: c.Limit, Burst: c.Burst, By: c.By, Algorithm: c.Algorithm, Cost: c.Cost, Name: c.Name}}
}

// Compile finds the live counts of each limit.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	l := &limiter{
		slot: policy.NewSlot[state](env), tell: policy.NewTeller(env),
		dryRun: c.DryRun, headers: c.Headers, failure: c.OnFailure, timeout: c.Timeout.D(),
		costHeader: c.CostHeader,
	}
	var faults []error
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: field, Text: text, Hint: hint})
	}
	switch {
	case c.Limits == nil && c.Limit.Count == 0:
		fault("limit", "there is no limit", "write limit: 100/m, or a list of limits")
	case c.Limits != nil && (c.Limit.Count != 0 || c.Burst != 0 || c.Name != ""):
		fault("limits", "limits stand beside a limit of the policy itself", "write all of them as limits")
	case c.Limits != nil && len(c.Limits) == 0 || len(c.Limits) > mostLimits:
		fault("limits", fmt.Sprintf("%d limits: a policy has 1 to %d", len(c.Limits), mostLimits), "")
	}
	if c.CostHeader != "" {
		if f := policy.CheckField(c.CostHeader); f != nil {
			fault("cost_header", f.Text, f.Hint)
		}
	}
	if c.Store == "redis" {
		store, ok := env.Service("redis").(limit.Store)
		if !ok || store == nil {
			fault("store", "there is no redis to keep counts in", "add redis: { url: redis://127.0.0.1:6379 } to the configuration")
		}
		if c.Share <= 0 {
			fault("share", "a gateway without a share would refuse everything", "")
		}
		l.store = store
	}
	l.clock = env.Keep("clock", func() any { return limit.NewClock() }).(*limit.Clock)
	l.seed = env.Keep("seed", func() any { return maphash.MakeSeed() }).(maphash.Seed)
	names := make(map[string]bool)
	for i, one := range c.list() {
		at := ""
		if c.Limits != nil {
			at = fmt.Sprintf("limits[%d].", i)
		}
		compiled, bad := c.one(env, one, i, at)
		if names[compiled.name] {
			bad = append(bad, &policy.Fault{Field: at + "name", Text: fmt.Sprintf("name %q stands twice", compiled.name)})
		}
		names[compiled.name] = true
		faults = append(faults, bad...)
		l.limits = append(l.limits, compiled)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	l.policy = l.describe()
	return l, nil
}

// one compiles a limit.
func (c *Config) one(env *policy.Env, one *Limit, i int, at string) (compiled, []error) {
	var faults []error
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: at + field, Text: text, Hint: hint})
	}
	out := compiled{
		name: one.Name, texts: newTexts(), cost: one.Cost, exact: one.Algorithm == "window",
		rule: limit.Rule{Count: one.Limit.Count, Per: one.Limit.Per, Burst: one.Burst},
	}
	if out.name == "" {
		if out.name = "default"; c.Limits != nil {
			out.name = strconv.Itoa(i + 1)
		}
	}
	if !limit.IsName(out.name) {
		fault("name", fmt.Sprintf("%q is not a name of a limit", one.Name), "use at most 64 printable ASCII characters")
	}
	if out.rule.Count == 0 {
		if at != "" {
			fault("limit", "there is no limit", "write limit: 100/m")
		}
		return out, faults
	}
	if out.rule.Burst == 0 || out.exact {
		out.rule.Burst = out.rule.Count
	}
	switch {
	case out.exact && one.Burst != 0:
		fault("burst", "an exact window has no burst", "remove it, or use the algorithm gcra")
	case out.exact && out.rule.Count > limit.MostInWindow:
		fault("limit", fmt.Sprintf("an exact window counts to at most %d", limit.MostInWindow), "use the algorithm gcra")
	case !out.rule.Fits():
		fault("limit", fmt.Sprintf("%s with a burst of %d cannot be counted: at most 1000000/s, and %d days to fill", one.Limit, out.rule.Burst, limit.LongestRule/(24*time.Hour)), "")
	case one.Cost > out.rule.Burst:
		fault("cost", fmt.Sprintf("a request costs %d, and at most %d pass at once: none would ever pass", one.Cost, out.rule.Burst), "")
	}
	var f *policy.Fault
	if out.by, f = key.Parse(one.By); f != nil {
		fault("by", f.Text, f.Hint)
	}
	if len(faults) > 0 {
		return out, faults
	}
	// The numbers of a limit are not part of the key: a limit that is changed
	// goes on from what was used.
	id := env.At + "\x00" + out.name + "\x00" + one.By
	out.key = "gatehouse:limit:" + key.Digest(id)
	if out.exact {
		out.key = "gatehouse:window:" + key.Digest(id) // the algorithms keep different things
	}
	local := out.rule
	if c.Store == "redis" {
		local = local.Part(float64(c.Share), one.Cost)
	}
	if out.exact {
		windows := env.Keep("windows "+id, func() any { return limit.NewWindows(c.MaxKeys * bytesForKey) }).(*limit.Windows)
		windows.Room(c.MaxKeys * bytesForKey)
		out.local = windows.With(local)
	} else {
		out.local = c.buckets(env, "buckets "+id).With(local)
	}
	if c.Store == "redis" {
		// How long the store refuses depends on the numbers: one that was
		// raised is asked anew.
		out.refused = c.buckets(env, fmt.Sprintf("refused %s %v %t %d", id, out.rule, out.exact, one.Cost))
	}
	return out, nil
}

// buckets finds live buckets. Their number may change.
func (c *Config) buckets(env *policy.Env, key string) *limit.Buckets {
	b := env.Keep(key, func() any { return limit.NewBuckets(c.MaxKeys) }).(*limit.Buckets)
	b.Room(c.MaxKeys)
	return b
}

// bytesForKey is the memory set aside for a key of an exact window. A window
// of more than some dozen units has room for fewer keys.
const bytesForKey = 512

// describe is the RateLimit-Policy field.
func (l *limiter) describe() string {
	var b []byte
	for i := range l.limits {
		b = limit.AppendPolicy(b, l.limits[i].name, l.limits[i].rule.Count, l.limits[i].rule.Per)
	}
	return string(b)
}

var _ interface {
	policy.OnRequest
	policy.OnResponse
	policy.OnDone
} = (*limiter)(nil)

var refusal = exchange.Problem{
	Status: 429, Code: "rate_limited", Side: exchange.SideClient,
	Detail: "Too many requests. Try again later.",
}

var unknown = exchange.Problem{
	Status: 503, Code: "limit_unavailable", Side: exchange.SideGateway,
	Detail: "The gateway cannot count requests at present.", Retry: time.Second,
}
