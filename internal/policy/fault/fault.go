// Package fault is the policy that makes requests slow, or fail, on purpose, to
// see how clients and the services around bear it. It owns the dice. It refuses
// to touch answers: what a service really said is never changed.
package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "fault".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "fault", Stage: policy.Transform,
		New: func() policy.Config { return &Config{DelayShare: 1, AbortShare: 1} },
		Doc: "Delays or aborts requests on purpose, for tests.",
	}
}

// Config says what is done to how many requests. Delay and abort are
// independent of each other; a request that meets both is delayed first.
type Config struct {
	// How long requests are delayed before they go on. 0 means not at all.
	Delay policy.Duration `yaml:"delay" max:"10m"`
	// Share of the requests that is delayed.
	DelayShare policy.Percent `yaml:"delay_share"`
	// Status with which requests are answered in place of the upstream, 400 to 599. 0 means that none is.
	Abort int `yaml:"abort" min:"0" max:"599"`
	// Share of the requests that is aborted.
	AbortShare policy.Percent `yaml:"abort_share"`
	// Field that a request must have to meet a fault, so that only those who ask for it do. None: every request.
	Field string `yaml:"field" example:"X-Fault"`
}

// Compile checks that there is a fault to inject.
func (c *Config) Compile(*policy.Env) (policy.Policy, error) {
	var faults []error
	if c.Delay == 0 && c.Abort == 0 {
		faults = append(faults, &policy.Fault{Text: "nothing is done to any request", Hint: "set delay, or abort"})
	}
	if c.Abort > 0 && c.Abort < 400 {
		faults = append(faults, &policy.Fault{Field: "abort", Text: "an aborted request has a status from 400 to 599"})
	}
	if c.Field != "" {
		if f := policy.CheckField(c.Field); f != nil {
			f.Field = "field"
			faults = append(faults, f)
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	p := &injector{c: *c}
	p.problem = exchange.Problem{
		Code: "fault_injected", Status: c.Abort, Side: exchange.SideGateway,
		Detail: "The request was aborted on purpose, for a test.",
	}
	return p, nil
}

var _ policy.OnRequest = (*injector)(nil)

// injector injects faults.
type injector struct {
	c       Config
	problem exchange.Problem
}

func (p *injector) Request(x *exchange.Exchange) policy.Verdict {
	if !p.asked(x) {
		return policy.Next
	}
	if p.c.Delay > 0 && hit(p.c.DelayShare) {
		if gone := policy.Sleep(x, p.c.Delay.D()); gone != nil {
			x.Fail(policy.ClientGone(gone))
			return policy.Stop
		}
	}
	if p.c.Abort > 0 && hit(p.c.AbortShare) {
		x.Fail(&p.problem)
		return policy.Stop
	}
	return policy.Next
}

// asked tells whether a request is to meet faults.
func (p *injector) asked(x *exchange.Exchange) bool {
	if p.c.Field == "" {
		return true
	}
	_, ok := x.Request.Header.Lookup(p.c.Field)
	return ok
}

// Reaches says what is injected: neither a wait nor dice explain anything.
func (p *injector) Reaches(x *exchange.Exchange) string {
	if !p.asked(x) {
		return ""
	}
	var parts []string
	if p.c.Delay > 0 {
		parts = append(parts, fmt.Sprintf("delays %g%% of requests by %s", 100*float64(p.c.DelayShare), p.c.Delay.D()))
	}
	if p.c.Abort > 0 {
		parts = append(parts, fmt.Sprintf("answers %g%% with %d", 100*float64(p.c.AbortShare), p.c.Abort))
	}
	return strings.Join(parts, ", ")
}

// hit throws the dice.
func hit(share policy.Percent) bool { return share >= 1 || rand.Float64() < float64(share) }
