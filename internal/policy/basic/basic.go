// Package basic is the policy that knows consumers by user name and password
// (RFC 7617). It owns the field and what it costs to check passwords: how many
// at a time, and how long one that was right is remembered.
package basic

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/password"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "basic".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "basic", Stage: policy.Identify,
		New: func() policy.Config {
			return &Config{
				Realm: "gatehouse", Attempts: identify.DefaultAttempts(),
				Remember: policy.Duration(remember), Entries: 10_000,
			}
		},
		Doc: "Identifies consumers by user name and password.",
	}
}

// Config says how passwords are checked.
type Config struct {
	// What the password is good for, which browsers show when they ask for it.
	Realm string `yaml:"realm"`
	// Whether the service sees user name and password. By default they are taken out of the request.
	Forward bool `yaml:"forward"`
	// How long a password that was right is taken without computing its hash again. A changed or disabled user is noticed at once all the same. 0 computes it every time.
	Remember policy.Duration `yaml:"remember" max:"1h"`
	// Most users whose passwords are remembered.
	Entries int `yaml:"entries" min:"1" max:"1000000"`
	// Whether requests without a password go on, as nobody. A wrong one is refused all the same.
	Optional bool `yaml:"optional"`
	// Consumer that requests without a password belong to. A wrong one is refused all the same.
	Anonymous string `yaml:"anonymous" example:"guest"`
	// Fields that tell the service who asks, by name: "consumer", "subject", "method", "credential", "groups", "scopes", "labels.NAME" or "claims.NAME". Fields of these names that a client sends are removed.
	Headers map[string]string `yaml:"headers"`
	// Limits on guessing.
	Attempts identify.Attempts `yaml:"attempts"`
}

// consumers is what the policy needs of the gateway, under the name
// "consumers".
type consumers interface {
	// Password identifies the consumer of a user name, and returns what the
	// password has to match, also for unknown users.
	Password(username string, who *exchange.Who) (*password.Hash, error)
}

// Compile checks the settings.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	var faults []error
	if f := identify.CheckRealm(c.Realm); f != nil {
		faults = append(faults, f)
	}
	guard := identify.KeptGuard(env, c.Attempts)
	m := &method{
		place: identify.Place{Header: "Authorization", Scheme: "Basic"}, realm: c.Realm, forward: c.Forward, guard: guard,
		// A few at a time, whatever the number of routes: each takes a core and
		// some of them a lot of memory.
		desk: env.Keep("desk", func() any {
			return password.NewDesk(max(1, runtime.GOMAXPROCS(0)/2), 64)
		}).(*password.Desk),
		ctx: context.Background(),
	}
	faults = append(faults, m.place.Compile("header", "query", "cookie")...)
	if c.Remember > 0 {
		m.right = env.Keep(fmt.Sprintf("remembered %v %d", c.Remember, c.Entries), func() any {
			return newMemory(c.Remember.D(), c.Entries)
		}).(*memory)
	}
	var ok bool
	if m.consumers, ok = env.Service("consumers").(consumers); !ok {
		faults = append(faults, errors.New("there are no consumers to identify"))
	}
	step, err := identify.New(env, m, guard, identify.Options{
		Optional: c.Optional, Anonymous: c.Anonymous, Headers: c.Headers,
	})
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	return step, nil
}
