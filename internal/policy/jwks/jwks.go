// Package jwks is the policy that answers with the public keys of what the
// gateway signs (RFC 7517). It owns the answer; who signs with the keys is
// somebody else.
package jwks

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/mint"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "jwks".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "jwks", Stage: policy.Edge,
		New: func() policy.Config { return &Config{MaxAge: policy.Duration(5 * time.Minute)} },
		Doc: "Answers every request with the public keys of tokens that the gateway signs.",
	}
}

// Config says which keys are published.
type Config struct {
	// The keys, written as those that sign: only their public halves are shown. The next key is published before it signs, the last one until nothing that it signed is valid.
	Keys []*mint.Key `yaml:"keys" required:"true"`
	// How long an answer may be kept. So long before it signs a new key has to be here.
	MaxAge policy.Duration `yaml:"max_age" max:"24h"`
}

// Compile makes the answer.
func (c *Config) Compile(*policy.Env) (policy.Policy, error) {
	signers, faults := mint.Signers(c.Keys)
	for i, k := range c.Keys {
		if k != nil && strings.HasPrefix(k.Algorithm, "HS") {
			faults = append(faults, &policy.Fault{Field: fmt.Sprintf("[%d].key", i), Text: "a shared secret is not for publishing", Hint: "use a private key"})
		}
	}
	if faults != nil {
		for _, err := range faults {
			var f *policy.Fault
			if errors.As(err, &f) {
				f.Field = "keys" + f.Field
			}
		}
		return nil, errors.Join(faults...)
	}
	body, err := mint.Publish(signers)
	if err != nil {
		return nil, err
	}
	return &answer{body, fmt.Sprintf("public, max-age=%d", int64(c.MaxAge.D()/time.Second))}, nil
}

// answer is the same for everybody.
type answer struct {
	body  []byte
	cache string
}

var _ policy.OnRequest = (*answer)(nil)

var wrongMethod = exchange.Problem{
	Status: 405, Code: "method_not_allowed", Side: exchange.SideClient,
	Detail: "This resource does not support the method of the request.",
	Fields: []exchange.Field{{Name: "Allow", Value: "GET, HEAD", Known: exchange.Allow}},
}

func (a *answer) Request(x *exchange.Exchange) policy.Verdict {
	if m := x.Request.Method; m != "GET" && m != "HEAD" {
		x.Fail(&wrongMethod)
		return policy.Stop
	}
	r := &x.Response
	r.Status = 200
	r.Header.AddKnown(exchange.ContentType, "application/jwk-set+json") // RFC 7517, section 8.5.2
	r.Header.AddKnown(exchange.CacheControl, a.cache)
	r.SetBody(a.body)
	return policy.Stop
}
