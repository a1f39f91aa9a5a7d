// Package accesslog is the policy that has a line written for every exchange.
// It owns when that happens. What a line looks like, where it goes and which
// share is written belong to the access log of the whole gateway.
package accesslog

import (
	"errors"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "access_log".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "access_log", Stage: policy.Report,
		New: func() policy.Config { return new(Config) },
		Doc: "Writes a line for every request to the access log.",
	}
}

// Config has nothing to set: "observe.access_log" says where and how.
type Config struct{}

// Writer is what the policy needs of the gateway, under the name "access_log".
type Writer interface {
	// Write takes down an exchange that has ended. It neither blocks nor keeps
	// the exchange.
	Write(x *exchange.Exchange)
}

// Compile finds the gateway's access log.
func (*Config) Compile(env *policy.Env) (policy.Policy, error) {
	w, ok := env.Service("access_log").(Writer)
	if !ok {
		return nil, errors.New("there is no access log to write to")
	}
	return &reporter{w}, nil
}

var _ policy.OnDone = (*reporter)(nil)

type reporter struct{ log Writer }

func (r *reporter) Done(x *exchange.Exchange) { r.log.Write(x) }
