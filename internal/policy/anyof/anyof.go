// Package anyof is the policy that says which of several proofs counts. It owns
// nothing else: the proofs are those of other policies.
package anyof

import (
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "any_of".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "any_of", Stage: policy.Identify,
		New: func() policy.Config { return new(Config) },
		Doc: "Takes any of several proofs of who asks.",
	}
}

// Config lists the proofs.
type Config struct {
	// Policies that tell who asks, asked in this order until one has a proof.
	Policies []*policy.Use `yaml:"policies" required:"true"`
	// Whether requests without any credential go on, as nobody. A wrong one is refused all the same.
	Optional bool `yaml:"optional"`
	// Consumer that requests without any credential belong to. A wrong one is refused all the same.
	Anonymous string `yaml:"anonymous" example:"guest"`
	// Fields that tell the service who asks, by name: "consumer", "subject", "method", "credential", "groups", "scopes", "labels.NAME" or "claims.NAME". Fields of these names that a client sends are removed.
	Headers map[string]string `yaml:"headers"`
}

// Compile compiles the policies of the list.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	p, err := identify.Compose(env, true, c.Policies, identify.Options{Optional: c.Optional, Anonymous: c.Anonymous, Headers: c.Headers})
	if err != nil {
		return nil, err
	}
	return p, nil
}
