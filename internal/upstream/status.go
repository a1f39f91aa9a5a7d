package upstream

import (
	"time"

	"gatehouse.dev/gatehouse/internal/upstream/health"
)

// Status is how an upstream is at one time, for people and dashboards.
type Status struct {
	Name          string           `json:"name"`
	Breaker       string           `json:"breaker,omitempty"` // closed, open or half_open; "" without one
	BreakerReason string           `json:"breaker_reason,omitempty"`
	Discovery     string           `json:"discovery_error,omitempty"` // why endpoints cannot be found at present; the last ones serve
	Panic         bool             `json:"panic,omitempty"`           // so few endpoints are healthy that health is ignored
	Connections   int64            `json:"connections"`
	Requests      int              `json:"requests,omitempty"` // at a time, where they are bounded
	Queued        int              `json:"queued,omitempty"`
	Limit         int              `json:"limit,omitempty"` // of requests at a time; 0 means none
	Endpoints     []EndpointStatus `json:"endpoints"`
}

// EndpointStatus is how one endpoint is.
type EndpointStatus struct {
	Address     string        `json:"address"`
	Host        string        `json:"host,omitempty"`
	Zone        string        `json:"zone,omitempty"`
	Priority    int           `json:"priority,omitempty"`
	Weight      float64       `json:"weight"`
	Warmth      float64       `json:"warmth"`           // part of its weight that counts during slow start
	State       string        `json:"state"`            // healthy, unhealthy or ejected
	Reason      string        `json:"reason,omitempty"` // why, or what the last check said
	Until       time.Duration `json:"until,omitempty"`  // what is left of an ejection, in nanoseconds
	Ejections   int           `json:"ejections,omitempty"`
	Requests    int64         `json:"requests"` // in flight
	Connections int           `json:"connections"`
	Idle        int           `json:"idle"`
	Latency     time.Duration `json:"latency,omitempty"` // expected, in nanoseconds, where it is measured
}

// Status returns how the upstream is now.
func (u *Upstream) Status() Status {
	s := u.live.Load()
	out := Status{Name: u.name, Discovery: u.lost.String(), Panic: s.panics, Connections: u.open.Load(), Endpoints: []EndpointStatus{}}
	if u.breaks {
		out.Breaker, out.BreakerReason = u.service.breaker.State()
	}
	if u.gate != nil {
		out.Requests, out.Queued, out.Limit = u.gate.load()
	}
	now := health.Now()
	for i := range s.members {
		m := &s.members[i]
		st := m.e.record.health.Status(now)
		if !st.Usable && u.usable(m.e, now) {
			st = health.Status{State: "healthy"} // by settings that are no longer in force
		}
		e := EndpointStatus{
			Address: m.e.address, Host: m.e.host, Zone: m.zone, Priority: m.priority, Weight: m.weight, Warmth: m.warmth,
			State: st.State, Reason: st.Reason, Until: st.Until, Ejections: st.Ejected,
			Requests: m.e.record.load.Active(), Latency: m.e.record.load.Latency(),
		}
		m.e.mu.Lock()
		e.Connections, e.Idle = m.e.open, len(m.e.idle)+m.e.resting
		m.e.mu.Unlock()
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}

// Available reports whether a request could be served: an endpoint takes
// requests, or is still being looked for, and the breaker lets it through.
func (u *Upstream) Available() bool {
	s := u.live.Load()
	if len(s.members) > 0 && len(s.lanes) == 0 {
		return false
	}
	return !u.breaks || !u.service.breaker.Shut(health.Now())
}
