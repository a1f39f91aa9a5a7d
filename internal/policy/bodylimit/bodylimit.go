// Package bodylimit is the policy that bounds how large the body of a request
// may be. It owns that one number: the listener's limit protects the gateway,
// this one the service behind a route.
package bodylimit

import (
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "body_limit".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "body_limit", Stage: policy.Edge,
		New: func() policy.Config { return &Config{Max: 1 << 20} },
		Doc: "Bounds how large the body of a request may be.",
	}
}

// Config is the limit.
type Config struct {
	// Largest body in bytes; 0 allows none.
	Max policy.Size `yaml:"max" max:"1TiB"`
	// Refuse bodies whose length is not announced, with 411.
	RequireLength bool `yaml:"require_length"`
}

// Compile has nothing to check.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	return &limiter{int64(c.Max), c.RequireLength, policy.NewSlot[counted](env)}, nil
}

var tooLarge = exchange.Problem{
	Status: 413, Code: "body_too_large", Side: exchange.SideClient, Close: true,
	Detail: "The body of the request is larger than this route takes.",
}

var noLength = exchange.Problem{
	Status: 411, Code: "length_required", Side: exchange.SideClient, Close: true,
	Detail: "This route takes no body whose length is not announced.",
}

var _ policy.OnRequest = (*limiter)(nil)

type limiter struct {
	max    int64
	length bool
	slot   policy.Slot[counted]
}

// Request refuses by the announced length before a byte is read, and counts
// where nothing was announced.
func (l *limiter) Request(x *exchange.Exchange) policy.Verdict {
	switch r := &x.Request; {
	case r.Length > l.max:
		x.Fail(&tooLarge)
		return policy.Stop
	case r.Length != exchange.Unknown:
	case l.length:
		x.Fail(&noLength)
		return policy.Stop
	default:
		c := l.slot.Get(x)
		*c = counted{Body: r.Body, left: l.max}
		r.Body = c
	}
	return policy.Next
}

// counted is a body that breaks off at the limit.
type counted struct {
	exchange.Body
	left int64
}

func (c *counted) Next() ([]byte, error) {
	p, err := c.Body.Next()
	if c.left -= int64(len(p)); c.left < 0 {
		return nil, &tooLarge
	}
	return p, err
}

// Ready implements exchange.Ready for bodies that can tell.
func (c *counted) Ready() bool {
	r, ok := c.Body.(exchange.Ready)
	return ok && r.Ready()
}

// Interrupt lets whoever pulls the body be woken through the counter.
func (c *counted) Interrupt() {
	if i, ok := c.Body.(exchange.Interrupter); ok {
		i.Interrupt()
	}
}

var (
	_ exchange.Ready       = (*counted)(nil)
	_ exchange.Interrupter = (*counted)(nil)
)
