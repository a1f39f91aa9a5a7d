// Package mtls is the policy that knows consumers by their client
// certificates. It owns where a certificate's traits come from; that it is
// valid is what the listener has verified, or a trusted proxy says.
package mtls

import (
	"errors"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "mtls".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "mtls", Stage: policy.Identify,
		New: func() policy.Config { return new(Config) },
		Doc: "Identifies consumers by their client certificates.",
	}
}

// Config says whose certificates are taken.
type Config struct {
	// Whether the field "X-Forwarded-Client-Cert" of a trusted proxy, which has verified the certificate, is taken where the connection has none. See "trusted_proxies" of the listener.
	Forwarded bool `yaml:"forwarded"`
	// Whether certificates that belong to no consumer are taken: whoever the listener's authorities vouch for may come in, known by the certificate's subject.
	Any bool `yaml:"any"`
	// Whether requests without a certificate go on, as nobody. A wrong one is refused all the same.
	Optional bool `yaml:"optional"`
	// Consumer that requests without a certificate belong to. A wrong one is refused all the same.
	Anonymous string `yaml:"anonymous" example:"guest"`
	// Fields that tell the service who asks, by name: "consumer", "subject", "method", "credential", "groups", "scopes", "labels.NAME" or "claims.NAME". Fields of these names that a client sends are removed.
	Headers map[string]string `yaml:"headers"`
}

// consumers is what the policy needs of the gateway, under the name
// "consumers".
type consumers interface {
	// Certificate identifies the consumer of a certificate, and tells whether
	// there is one. Alternative names have their types before them.
	Certificate(thumbprint string, sans []string, name string, who *exchange.Who) (known bool, err error)
}

// Compile checks the settings.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	m := &method{config: c}
	var err error
	var ok bool
	if m.consumers, ok = env.Service("consumers").(consumers); !ok {
		err = errors.New("there are no consumers to identify")
	}
	step, more := identify.New(env, m, nil, identify.Options{
		Optional: c.Optional, Anonymous: c.Anonymous, Headers: c.Headers,
	})
	if err := errors.Join(err, more); err != nil {
		return nil, err
	}
	return step, nil
}
