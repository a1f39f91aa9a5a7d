package upstream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/h2"
	"gatehouse.dev/gatehouse/internal/upstream/balance"
	"gatehouse.dev/gatehouse/internal/upstream/health"
	"gatehouse.dev/gatehouse/internal/wire"
)

// checkAlgorithm reports whether there is an algorithm of that name.
func checkAlgorithm(name string) error {
	_, err := balance.New(name, nil, balance.Options{})
	return err
}

// keyOf returns the key of a value; of none a random one.
func keyOf(value string) uint64 {
	if value == "" {
		return rand.Uint64()
	}
	return balance.Hash(value)
}

// outlier is how live traffic is judged.
type outlier struct {
	health.Outlier
	slower     float64
	maxEjected float64
	judged     health.Clock // when latencies were compared last; guarded by Upstream.mu
}

func newOutlier(c *config.Outlier) *outlier {
	if c == nil {
		return nil
	}
	return &outlier{
		Outlier: health.Outlier{
			ConsecutiveErrors: c.ConsecutiveErrors, ErrorRate: float64(c.ErrorRate), MinRequests: c.MinRequests,
			Window: c.Window.D(), Eject: c.Eject.D(), EjectMax: c.EjectMax.D(),
		},
		slower: c.Slower, maxEjected: float64(c.MaxEjected),
	}
}

// failurePenalty is what a failure counts as where the quicker endpoint is
// preferred: one that refuses at once is not quick.
const failurePenalty = time.Second

// fault takes note of an attempt that came to nothing.
func (e *endpoint) fault(took time.Duration) {
	e.observe(max(took, failurePenalty))
	e.judge(true, took)
}

// observe takes note of how long an attempt took, for who prefers the quick.
func (e *endpoint) observe(took time.Duration) {
	if e.u.balance.Algorithm == "ewma" {
		e.record.load.Observe(took)
	}
}

// judge takes note of what a request came to in the end.
func (e *endpoint) judge(failed bool, took time.Duration) {
	u := e.u
	if u.outlier == nil {
		return
	}
	now := health.Now()
	// Whoever saw it fail waits here while somebody else is ejecting it, and so
	// finds it out of the set when he asks again.
	if reason := e.record.health.Record(now, &u.outlier.Outlier, failed, took); reason != "" {
		u.eject(e, reason)
	}
	if u.outlier.slower > 0 {
		u.compare(now)
	}
}

// eject takes an endpoint out, unless too many are out already.
func (u *Upstream) eject(e *endpoint, reason string) {
	u.mu.Lock()
	now := health.Now()
	out, n := 0, 0
	for _, m := range u.live.Load().members {
		if n++; m.e.record.health.Status(now).State == "ejected" {
			out++
		}
	}
	if e.record.health.Status(now).State == "ejected" || out+1 > int(u.outlier.maxEjected*float64(n)) || u.retired {
		u.mu.Unlock()
		return
	}
	d := e.record.health.Eject(now, &u.outlier.Outlier, reason)
	u.refreshLocked()
	u.mu.Unlock()
	u.log.Warn("an endpoint is ejected", "upstream", u.name, "endpoint", e.address, "reason", reason, "for", d)
	u.meter.Event(Ejected)
}

// compare ejects endpoints that are much slower than the others, once in each
// window.
func (u *Upstream) compare(now health.Clock) {
	o := u.outlier
	u.mu.Lock()
	if time.Duration(now-o.judged) < o.Window {
		u.mu.Unlock()
		return
	}
	first := o.judged == 0
	o.judged = now
	members := u.live.Load().members
	u.mu.Unlock()
	if first {
		return
	}
	type timed struct {
		e    *endpoint
		mean time.Duration
	}
	var known []timed
	var means []time.Duration
	for i := range members {
		if mean, n := members[i].e.record.health.Mean(now); n >= int64(o.MinRequests) && members[i].usable {
			known = append(known, timed{members[i].e, mean})
			means = append(means, mean)
		}
	}
	if len(known) < 2 {
		return
	}
	// Of an even number the lower of the two in the middle is meant, so that
	// one of two can be the slow one.
	middle := lowerMedian(means)
	for _, k := range known {
		if float64(k.mean) >= o.slower*float64(middle) {
			u.eject(k.e, fmt.Sprintf("answers take %v, those of others %v", k.mean.Round(time.Millisecond), middle.Round(time.Millisecond)))
		}
	}
}

// cut reports whether an answer's body broke off by the upstream's fault.
func cut(err error) bool {
	if err == nil {
		return false
	}
	var bad h1.Malformed
	var bad2 h2.Malformed
	return errors.Is(err, h1.ErrCut) || errors.Is(err, h2.ErrCut) || errors.As(err, &bad2) || errors.Is(err, wire.ErrTimeout) || errors.Is(err, syscall.ECONNRESET) || errors.As(err, &bad)
}

// failedCall reports whether a gRPC status, in the fields that end an answer,
// says that the service is not well: UNKNOWN, INTERNAL, UNAVAILABLE or
// DATA_LOSS. DEADLINE_EXCEEDED does not: who calls sets the deadline.
func failedCall(h *exchange.Header) bool {
	switch h.Get("grpc-status") {
	case "2", "13", "14", "15":
		return true
	}
	return false
}

// tellBreaker tells the breaker what an exchange came to. Of a gRPC call that
// goes on that is known at its end; a probe cannot wait for it.
func (c *call) tellBreaker(pass health.Pass) {
	r := resultOf(c.x)
	if r == health.Good && c.use != nil {
		if c.use.call && !pass.Probe() {
			c.use.owed = true
			return
		}
		if c.use.bad {
			r = health.Bad
		}
	}
	c.u.service.breaker.Done(health.Now(), pass, r, time.Duration(exchange.Now()-c.began))
}

// resultOf says what an exchange means for the breaker.
func resultOf(x *exchange.Exchange) health.Result {
	switch {
	case x.Problem == nil && x.Response.Status >= 500:
		return health.Bad
	case x.Problem == nil:
		return health.Good
	case x.Problem.Side == exchange.SideUpstream:
		return health.Bad
	}
	return health.None
}

func (u *Upstream) breakerChanged(state, reason string) {
	switch state {
	case "open":
		u.log.Warn("the breaker of an upstream opens", "upstream", u.name, "reason", reason)
		u.meter.Event(BreakerOpened)
	case "closed":
		u.log.Info("the breaker of an upstream closes", "upstream", u.name)
		u.meter.Event(BreakerClosed)
	}
}
