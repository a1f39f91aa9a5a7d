// Package signature is the policy that knows consumers by signatures over their
// requests: HTTP Message Signatures (RFC 9421), and Content-Digest (RFC 9530)
// for the body. It owns what has to be signed and how long a signature is good.
package signature

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "signature".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "signature", Stage: policy.Identify,
		New: func() policy.Config {
			sharing := identify.DefaultSharing()
			return &Config{
				Components: policy.StringList{"@method", "@authority", "@path", "@query"},
				MaxAge:     policy.Duration(5 * time.Minute), Leeway: policy.Duration(30 * time.Second),
				Body: 1 << 20, Remember: 100_000, Attempts: identify.DefaultAttempts(),
				Store: sharing.Store, OnFailure: sharing.OnFailure, Timeout: sharing.Timeout,
			}
		},
		Doc: "Identifies consumers by signatures over their requests (RFC 9421).",
	}
}

// Config says what has to be signed.
type Config struct {
	// Components that a signature has to cover: names of fields in lower case, and "@method", "@authority", "@scheme", "@path", "@query", "@target-uri", "@request-target". A request with a body needs "content-digest" too.
	Components policy.StringList `yaml:"components"`
	// Signature that counts, of several that a request may have. Default: the only one, or the only one with the tag.
	Label string `yaml:"label" example:"sig1"`
	// The "tag" that the signature has to have, which says what it was made for.
	Tag string `yaml:"tag" example:"shop"`
	// How old a signature may be. It has to say when it was made.
	MaxAge policy.Duration `yaml:"max_age" min:"1s" max:"24h"`
	// How far the client's clock may be ahead.
	Leeway policy.Duration `yaml:"leeway" max:"10m"`
	// Whether a signature has to have a nonce.
	Nonce bool `yaml:"nonce"`
	// Most signatures that this gateway remembers, so that none is taken twice; further ones are refused. 0 takes a signature as often as it comes.
	Remember int `yaml:"remember" min:"0" max:"10000000"`
	// Where signatures are remembered: redis is what "redis" of the configuration names, so that none is taken twice by several gateways; local is this gateway's memory; auto is redis where there is one.
	Store string `yaml:"store" enum:"auto,local,redis"`
	// What to do while redis does not answer: closed answers 503, local goes by what this gateway remembers, and another one may take the same signature.
	OnFailure string `yaml:"on_failure" enum:"closed,local"`
	// How long to wait for redis.
	Timeout policy.Duration `yaml:"timeout" min:"1ms" max:"10s"`
	// Largest body, which is held in memory to compare its digest; above it 413.
	Body policy.Size `yaml:"body" min:"1KiB" max:"64MiB"`
	// Whether the service sees the signature, if it is right.
	Forward bool `yaml:"forward"`
	// Whether requests without a signature go on, as nobody. A wrong one is refused all the same.
	Optional bool `yaml:"optional"`
	// Consumer that requests without a signature belong to. A wrong one is refused all the same.
	Anonymous string `yaml:"anonymous" example:"guest"`
	// Fields that tell the service who asks, by name: "consumer", "subject", "method", "credential", "groups", "scopes", "labels.NAME" or "claims.NAME". Fields of these names that a client sends are removed.
	Headers map[string]string `yaml:"headers"`
	// Limits on guessing.
	Attempts identify.Attempts `yaml:"attempts"`
}

// consumers is what the policy needs of the gateway, under the name
// "consumers".
type consumers interface {
	// SignatureKey identifies the consumer of a key id, and returns the key's
	// algorithm and the key.
	SignatureKey(id string, who *exchange.Who) (algorithm string, key any, err error)
}

// step is the runtime: the step of the stage, which sees the whole body.
type step struct {
	*identify.Step
	body int64
}

var _ policy.Holds = (*step)(nil)

// HoldRequest is the largest body that is taken.
func (s *step) HoldRequest() int64 { return s.body }

// HoldResponse says that no answer is held.
func (s *step) HoldResponse() int64 { return 0 }

// Compile checks the settings.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	guard := identify.KeptGuard(env, c.Attempts)
	m := &method{config: c, guard: guard}
	var faults []error
	for i, name := range c.Components {
		known := slices.Contains([]string{"@method", "@authority", "@scheme", "@path", "@query", "@target-uri", "@request-target"}, name)
		f := policy.CheckField(name)
		if name == "host" || name == "content-length" {
			f = nil
		}
		if !known && (f != nil || name != strings.ToLower(name)) {
			faults = append(faults, &policy.Fault{Field: fmt.Sprintf("components[%d]", i), Text: fmt.Sprintf("%q is no component of a request", name), Hint: "write a field in lower case, or @method, @authority, @scheme, @path, @query, @target-uri or @request-target"})
		}
	}
	if c.Remember > 0 {
		shared, err := identify.Sharing{Store: c.Store, OnFailure: c.OnFailure, Timeout: c.Timeout}.Compile(env)
		if err != nil {
			faults = append(faults, err)
		}
		m.used = identify.NewUses(env, "signatures", c.Remember, shared)
	}
	var ok bool
	if m.consumers, ok = env.Service("consumers").(consumers); !ok {
		faults = append(faults, errors.New("there are no consumers to identify"))
	}
	s, err := identify.New(env, m, guard, identify.Options{
		Optional: c.Optional, Anonymous: c.Anonymous, Headers: c.Headers,
	})
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	return &step{s, int64(c.Body)}, nil
}
