// Package jwks is the policy that shows the keys with which tokens of the
// gateway are verified. It owns no private key: of those that it is given it
// shows the public half only.
package jwks

import (
	"errors"
	"fmt"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "jwks".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "jwks", Stage: policy.Transform,
		New: func() policy.Config { return new(Config) },
		Doc: "Answers with the keys that verify tokens of the gateway.",
	}
}

// Config lists the keys.
type Config struct {
	// Keys that sign tokens, as the policy "outbound_auth" has them. During a change of keys the next one is shown before it is used, and the last one until its tokens have expired.
	Keys []*Key `yaml:"keys" required:"true"`
}

// Key is a key that signs tokens.
type Key struct {
	// The private key in PEM.
	Key policy.Secret `yaml:"key" required:"true"`
	// Its "kid". Default: the key's thumbprint.
	KeyID string `yaml:"key_id"`
	// Algorithm. Default: the usual one of the key.
	Algorithm string `yaml:"algorithm" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA,Ed25519"`
}

// Compile reads the keys.
func (c *Config) Compile(*policy.Env) (policy.Policy, error) {
	var faults []error
	var signers []*jose.Signer
	for i, k := range c.Keys {
		if k == nil {
			continue // decoding has said what is wrong with it
		}
		key, err := jose.ParsePrivate(k.Key.Reveal())
		var s *jose.Signer
		if err == nil {
			s, err = jose.NewSigner(key, k.Algorithm, k.KeyID)
		}
		if err != nil {
			faults = append(faults, &policy.Fault{Field: fmt.Sprintf("keys[%d].key", i), Text: err.Error()})
			continue
		}
		signers = append(signers, s)
	}
	if len(c.Keys) == 0 {
		faults = append(faults, &policy.Fault{Field: "keys", Text: "there is no key to show"})
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	body, err := jose.Publish(signers...)
	if err != nil {
		return nil, err
	}
	return &shower{body}, nil
}

type shower struct{ body []byte }

var _ policy.OnRequest = (*shower)(nil)

// Request answers GET with the keys. Whoever fetched them may keep them for
// five minutes.
func (s *shower) Request(x *exchange.Exchange) policy.Verdict {
	if x.Request.Method != "GET" && x.Request.Method != "HEAD" {
		return policy.Next
	}
	r := &x.Response
	r.Status = 200
	r.Header.AddKnown(exchange.ContentType, "application/jwk-set+json")
	r.Header.AddKnown(exchange.CacheControl, "public, max-age=300")
	r.SetBody(s.body)
	return policy.Stop
}
