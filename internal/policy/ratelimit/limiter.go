package ratelimit

import (
	"context"
	"hash/maphash"
	"strconv"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/key"
	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/policy"
)

// limiter counts and refuses.
type limiter struct {
	limits     []compiled
	slot       policy.Slot[state]
	seed       maphash.Seed
	clock      *limit.Clock
	tell       *policy.Teller
	policy     string // the RateLimit-Policy field
	dryRun     bool
	headers    bool
	costHeader string

	store   limit.Store // nil: local
	failure string
	timeout time.Duration
}

// compiled is one limit.
type compiled struct {
	name  string
	rule  limit.Rule
	exact bool
	cost  int64
	by    key.By
	local limit.Limit
	texts texts

	key     string         // of the limit in a shared store
	refused *limit.Buckets // until when the shared store refuses a key
}

// state is what one request did to the limits.
type state struct {
	keys    [mostLimits]uint64
	states  [mostLimits]limit.State
	problem exchange.Problem
	known   uint8 // bit i: states[i] is what limit i said
	taken   bool  // all of them allowed it, and it was counted
	shared  bool  // it was counted in the shared store
	settle  bool  // the shared store is still to be told what it did cost
	cost    int64 // what it did cost
}

func (l *limiter) Request(x *exchange.Exchange) policy.Verdict {
	s := l.slot.Get(x)
	now := l.clock.Now()
	for i := range l.limits {
		s.keys[i] = l.limits[i].by.Hash(x, l.seed)
	}
	var refused int
	if l.store == nil {
		refused = l.take(s, now)
	} else {
		var err error
		if refused, err = l.takeShared(x, s, now); err != nil {
			switch {
			case l.failure == "open":
				l.tell.Spared(policy.FailOpen, "limits are not kept: the store does not answer", "error", err)
				return policy.Next
			case l.failure == "closed" && l.dryRun:
				l.tell.Spared(policy.DryRun, "a request was let through by dry_run: the store does not answer", "error", err)
				return policy.Next
			case l.failure == "closed":
				x.Fail(unknown.With(err))
				return policy.Stop
			}
			l.tell.Warn("limits are kept locally: the store does not answer", "error", err)
			refused = l.take(s, now)
		}
	}
	s.taken = refused < 0
	if refused < 0 {
		return policy.Next
	}
	if l.dryRun {
		l.tell.Spared(policy.DryRun, "a request over the limit was let through by dry_run", "limit", l.limits[refused].name, "request_id", x.RequestID())
		return policy.Next
	}
	s.problem = refusal
	if retry := s.states[refused].Retry; retry != limit.Never {
		s.problem.Retry = retry
	}
	x.Fail(&s.problem)
	return policy.Stop
}

// Reaches says that the limits are counted where other gateways see it.
func (l *limiter) Reaches(*exchange.Exchange) string {
	if l.store == nil {
		return ""
	}
	return "counts in redis against " + l.policy
}

// take asks the local limits one after the other. What earlier ones gave to a
// request that a later one refuses is given back.
func (l *limiter) take(s *state, now int64) (refused int) {
	for i := range l.limits {
		one := &l.limits[i]
		s.states[i] = one.local.Take(s.keys[i], one.cost, now)
		s.known |= 1 << i
		if s.states[i].OK {
			continue
		}
		for j := range i {
			l.limits[j].local.Give(s.keys[j], l.limits[j].cost, now)
			s.states[j].Remaining += l.limits[j].cost
		}
		return i
	}
	return -1
}

// takeShared asks the shared store about all limits at once. A key that it
// refused is not asked about again before it may be allowed, so that a flood
// ends here.
func (l *limiter) takeShared(x *exchange.Exchange, s *state, now int64) (refused int, err error) {
	for i := range l.limits {
		if until := l.limits[i].refused.Until(s.keys[i], now); until > now {
			s.states[i] = limit.State{Retry: time.Duration(until - now), Reset: time.Duration(until - now)}
			s.known = 1 << i
			return i, nil
		}
	}
	calls := l.calls(x)
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	defer cancel()
	if err := l.store.Take(ctx, calls); err != nil {
		return 0, err
	}
	refused = -1
	s.shared = true
	for i := range calls {
		s.states[i] = calls[i].State
		s.known |= 1 << i
		if calls[i].State.OK || refused >= 0 {
			continue
		}
		refused = i
		if retry := calls[i].State.Retry; retry != limit.Never {
			l.limits[i].refused.Extend(s.keys[i], now+int64(retry), now)
		}
	}
	if refused >= 0 && len(calls) > 1 {
		l.giveBack(ctx, calls)
	}
	return refused, nil
}

// giveBack returns what some limits of a shared store gave to a request that
// another one refused.
func (l *limiter) giveBack(ctx context.Context, calls []limit.Call) {
	back := calls[:0:0]
	for _, c := range calls {
		if c.State.OK {
			c.Cost = -c.Cost
			back = append(back, c)
		}
	}
	if len(back) == 0 {
		return
	}
	if err := l.store.Add(ctx, back); err != nil {
		l.tell.Warn("units could not be given back to the store", "error", err)
	}
}

func (l *limiter) calls(x *exchange.Exchange) []limit.Call {
	calls := make([]limit.Call, len(l.limits))
	for i := range l.limits {
		one := &l.limits[i]
		calls[i] = limit.Call{Key: one.key + ":" + key.Digest(one.by.Text(x)), Rule: one.rule, Exact: one.exact, Cost: one.cost}
	}
	return calls
}

// Response charges what the answer says and tells the client where it stands.
func (l *limiter) Response(x *exchange.Exchange) {
	s := l.slot.Get(x)
	if l.costHeader != "" {
		l.charge(x, s)
	}
	if !l.headers || s.known == 0 {
		return
	}
	h := &x.Response.Header
	h.Append(exchange.Field{Name: "RateLimit-Policy", Value: l.policy})
	for i := range l.limits {
		if s.known&(1<<i) == 0 {
			continue
		}
		h.Append(exchange.Field{Name: "RateLimit", Value: l.limits[i].texts.of(l.limits[i].name, &s.states[i])})
	}
}

// charge settles the difference between what was taken and what the upstream
// says that the request did cost.
func (l *limiter) charge(x *exchange.Exchange, s *state) {
	text, ok := policy.TakeOff(x, l.costHeader)
	if !ok {
		return
	}
	cost, err := strconv.ParseInt(text, 10, 64)
	if err != nil || cost < 0 || !s.taken || x.Response.Local {
		return
	}
	s.cost = min(cost, 1e9)
	if s.shared {
		s.settle = true // when the client has its answer
		return
	}
	now := l.clock.Now()
	for i := range l.limits {
		one := &l.limits[i]
		extra := s.cost - one.cost
		if extra > 0 {
			one.local.Charge(s.keys[i], extra, now)
		} else {
			one.local.Give(s.keys[i], -extra, now)
		}
		s.states[i] = one.local.Take(s.keys[i], 0, now)
	}
}

// Done settles with the shared store.
func (l *limiter) Done(x *exchange.Exchange) {
	if l.store == nil {
		return
	}
	s := l.slot.Get(x)
	if !s.settle {
		return
	}
	var calls []limit.Call
	for _, c := range l.calls(x) {
		if c.Cost = s.cost - c.Cost; c.Cost != 0 {
			calls = append(calls, c)
		}
	}
	if len(calls) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	defer cancel()
	if err := l.store.Add(ctx, calls); err != nil {
		l.tell.Warn("the cost of an answer could not be charged", "error", err)
	}
}

// texts remembers the RateLimit fields that were written lately. What remains
// and when it is back go together, so a few hundred of them serve nearly every
// answer without an allocation.
type texts struct{ list *[512]atomic.Pointer[text] }

type text struct {
	remaining, reset int64
	value            string
}

func newTexts() texts { return texts{new([512]atomic.Pointer[text])} }

// of is the RateLimit field of a limit.
func (t texts) of(name string, s *limit.State) string {
	remaining, reset := s.Remaining, limit.Seconds(s.Reset)
	at := &t.list[uint64(remaining*31+reset)%uint64(len(t.list))]
	if known := at.Load(); known != nil && known.remaining == remaining && known.reset == reset {
		return known.value
	}
	one := &text{remaining, reset, string(limit.AppendState(make([]byte, 0, 64), name, remaining, reset))}
	at.Store(one)
	return one.value
}
