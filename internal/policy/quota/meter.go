package quota

import (
	"context"
	"strconv"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/key"
	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/policy"
)

var (
	_ policy.OnRequest  = (*meter)(nil)
	_ policy.OnResponse = (*meter)(nil)
	_ policy.OnDone     = (*meter)(nil)
)

// meter counts.
type meter struct {
	periods    []period
	store      limit.Quotas
	by         key.By
	cost       int64
	costHeader string
	endpoint   string
	headers    bool
	open       bool
	timeout    time.Duration
	dryRun     bool
	policy     string // the RateLimit-Policy field
	slot       policy.Slot[state]
	tell       *policy.Teller
}

// state is what one request did to the quotas.
type state struct {
	caller  string
	used    [mostLimits]int64
	reset   [mostLimits]time.Time
	known   int  // so many quotas gave an answer
	counted bool // all of them counted it
	extra   int64
	problem exchange.Problem
}

// Reaches says where the quota is kept.
func (m *meter) Reaches(*exchange.Exchange) string { return "counts against " + m.policy }

func (m *meter) Request(x *exchange.Exchange) policy.Verdict {
	s := m.slot.Get(x)
	s.caller = key.Digest(m.by.Text(x))
	ctx, cancel := context.WithTimeout(context.Background(), m.timeout)
	defer cancel()
	now := time.Now()
	usage := m.endpoint != "" && x.Request.Path == m.endpoint
	cost := m.cost
	if usage {
		cost = 0
	}
	refused, err := m.use(ctx, s, cost, now)
	switch {
	case err != nil && m.open && !usage:
		m.tell.Spared(policy.FailOpen, "a request was not counted: the store does not answer", "error", err)
		return policy.Next
	case err != nil && m.dryRun && !usage:
		m.tell.Spared(policy.DryRun, "a request was let through by dry_run: the store does not answer", "error", err)
		return policy.Next
	case err != nil:
		x.Fail(unknown.With(err))
		return policy.Stop
	case usage:
		m.answer(x, s)
		return policy.Stop
	case refused < 0:
		s.counted = true
		return policy.Next
	case m.dryRun:
		m.tell.Spared(policy.DryRun, "a request over the quota was let through by dry_run", "quota", m.periods[refused].name, "request_id", x.RequestID())
		return policy.Next
	}
	s.problem = exceeded
	s.problem.Retry = s.reset[refused].Sub(now)
	if p := &m.periods[refused]; p.rolling {
		s.problem.Retry = p.length() / rollingSlots // when the next of it may be back
	}
	x.Fail(&s.problem)
	return policy.Stop
}

// use counts a cost in all periods, or in none.
func (m *meter) use(ctx context.Context, s *state, cost int64, now time.Time) (refused int, err error) {
	for i := range m.periods {
		used, ok, err := m.store.Use(ctx, m.quota(s, i, cost, now))
		if err == nil && ok {
			s.used[i], s.known = used, i+1
			continue
		}
		for j := range i {
			if cost == 0 {
				break
			}
			back, _, err := m.store.Use(ctx, m.quota(s, j, -cost, now))
			if err != nil {
				m.tell.Warn("a cost was not given back: the store does not answer", "error", err)
				break
			}
			s.used[j] = back
		}
		if err == nil {
			s.used[i], s.known = used, i+1
		}
		return i, err
	}
	return -1, nil
}

func (m *meter) quota(s *state, i int, cost int64, now time.Time) limit.Quota {
	p := &m.periods[i]
	q := limit.Quota{Key: p.key + ":" + s.caller, Limit: p.limit, Cost: cost}
	q.Slot, q.Slots, s.reset[i] = p.at(now)
	q.Keep = s.reset[i].Sub(now) + p.length()/50
	return q
}

// Response notes what the answer says it did cost, and tells the client where
// it stands.
func (m *meter) Response(x *exchange.Exchange) {
	s := m.slot.Get(x)
	h := &x.Response.Header
	if m.costHeader != "" {
		text, ok := policy.TakeOff(x, m.costHeader)
		if n, err := strconv.ParseInt(text, 10, 64); ok && err == nil && n >= 0 && s.counted && !x.Response.Local {
			s.extra = min(n, 1e12) - m.cost
		}
	}
	if !m.headers || s.known == 0 {
		return
	}
	h.Append(exchange.Field{Name: "RateLimit-Policy", Value: m.policy})
	now := time.Now()
	for i := range s.known {
		p := &m.periods[i]
		b := limit.AppendState(make([]byte, 0, 64), p.name, p.limit-s.used[i]-s.extra, limit.Seconds(s.reset[i].Sub(now)))
		h.Append(exchange.Field{Name: "RateLimit", Value: string(b)})
	}
}

// Done charges the difference, also over the limit: what was used was used.
func (m *meter) Done(x *exchange.Exchange) {
	s := m.slot.Get(x)
	if s.extra == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.timeout)
	defer cancel()
	now := time.Now()
	for i := range m.periods {
		q := m.quota(s, i, s.extra, now)
		q.Force = true
		if _, _, err := m.store.Use(ctx, q); err != nil {
			m.tell.Warn("the cost of an answer was not charged: the store does not answer", "error", err)
		}
	}
}

// describe is the RateLimit-Policy field. A month of the calendar is written
// as 30 days: the field knows seconds only.
func (m *meter) describe() string {
	var b []byte
	for i := range m.periods {
		p := &m.periods[i]
		b = limit.AppendPolicy(b, p.name, p.limit, p.length())
	}
	return string(b)
}

// answer tells a caller its usage.
func (m *meter) answer(x *exchange.Exchange, s *state) {
	b := []byte(`{"quotas":[`)
	for i := range m.periods {
		p := &m.periods[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = exchange.AppendJSONString(append(b, `{"name":`...), p.name)
		b = exchange.AppendJSONString(append(b, `,"period":`...), p.unit)
		b = strconv.AppendBool(append(b, `,"rolling":`...), p.rolling)
		b = strconv.AppendInt(append(b, `,"limit":`...), p.limit, 10)
		b = strconv.AppendInt(append(b, `,"used":`...), s.used[i], 10)
		b = strconv.AppendInt(append(b, `,"remaining":`...), max(p.limit-s.used[i], 0), 10)
		if !p.rolling {
			b = exchange.AppendJSONString(append(b, `,"resets":`...), s.reset[i].Format(time.RFC3339))
		}
		b = append(b, '}')
	}
	r := &x.Response
	r.Reset()
	r.Status = 200
	r.Header.AddKnown(exchange.ContentType, "application/json")
	r.Header.AddKnown(exchange.CacheControl, "no-store")
	r.SetBody(append(b, "]}\n"...))
}
