// Package shed is the policy that turns requests away while the machine is
// overloaded, those of the lowest priority first, so that the rest is served
// in time. It owns the readings of load and how many to turn away.
package shed

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "shed".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "shed", Stage: policy.Edge,
		New: func() policy.Config {
			return &Config{CPU: 0.95, Memory: 0.9, QueueDelay: policy.Duration(20 * time.Millisecond), Priority: "normal"}
		},
		Doc: "Turns requests away while the machine is overloaded, those of the lowest priority first.",
	}
}

// Config says what is too much, and how dear the requests are. A route that
// sets its priority repeats what the gateway's policy says beside it.
type Config struct {
	// Share of the processors that this process may use up. 0 does not look.
	CPU policy.Percent `yaml:"cpu"`
	// Share of the memory limit (GOMEMLIMIT, or nine tenths of what the container may use) that this process may use up. 0 does not look.
	Memory policy.Percent `yaml:"memory"`
	// How long work that is ready may wait for a processor. 0 does not look.
	QueueDelay policy.Duration `yaml:"queue_delay" max:"10s"`
	// low is turned away first, then normal, then high; critical never is.
	Priority string `yaml:"priority" enum:"low,normal,high,critical"`
}

// Compile finds the live readings, which all policies with the same limits
// share.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	if c.CPU == 0 && c.Memory == 0 && c.QueueDelay == 0 {
		return nil, errors.New("nothing is looked at: there is never too much")
	}
	limits := limits{cpu: float64(c.CPU), memory: float64(c.Memory), delay: c.QueueDelay.D()}
	kept := fmt.Sprintf("load %v", limits)
	s := &shedder{load: env.Keep(kept, func() any { return start(limits, newProbe()) }).(*load)}
	switch c.Priority {
	case "low":
		s.rank = 0
	case "normal":
		s.rank = 1
	case "high":
		s.rank = 2
	default:
		s.never = true
	}
	return s, nil
}

var overloaded = exchange.Problem{
	Status: 503, Code: "overloaded", Side: exchange.SideGateway, Retry: time.Second,
	Detail: "The gateway has too much to do. Try again later.",
}

var _ policy.OnRequest = (*shedder)(nil)

type shedder struct {
	load  *load
	rank  float64
	never bool
}

// Reaches says that the step looks at the machine.
func (s *shedder) Reaches(*exchange.Exchange) string {
	if s.never {
		return ""
	}
	return "looks at the load of the gateway"
}

// Request turns a share of the requests away: none, some or all of a priority
// before any of the next.
func (s *shedder) Request(x *exchange.Exchange) policy.Verdict {
	pressure := s.load.pressure()
	if pressure <= s.rank || s.never || pressure < s.rank+1 && rand.Float64() >= pressure-s.rank {
		return policy.Next
	}
	x.Fail(&overloaded)
	return policy.Stop
}
