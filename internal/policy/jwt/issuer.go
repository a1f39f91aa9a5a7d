package jwt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy"
)

// issuer is who signs tokens, compiled.
type issuer struct {
	name       string
	audience   []string // nil: for anybody
	algorithms []string // nil: all that fit
	fixed      *jose.Set
	source     *jose.Source // nil: fixed only
	at         string       // where source learns of keys
}

// patience is how long a request waits for keys that are being loaded.
const patience = 3 * time.Second

func (s *Issuer) compile(env *policy.Env, c *Config) (*issuer, []error) {
	out := &issuer{name: s.Issuer, audience: s.Audience, algorithms: s.Algorithms, fixed: new(jose.Set)}
	var faults []error
	switch {
	case len(s.Audience) == 0:
		faults = append(faults, &policy.Fault{Field: "audience", Text: "the audience is missing: a token for any other service would be taken", Hint: `write whom tokens are for, or "*"`})
	case slices.Contains(s.Audience, "*"):
		out.audience = nil
	}
	var keys []*jose.Key
	for i, k := range s.Keys {
		if k == nil {
			continue
		}
		key, f := k.compile()
		if f != nil {
			f.Field = strings.TrimSuffix(fmt.Sprintf("keys[%d].%s", i, f.Field), ".")
			faults = append(faults, f)
			continue
		}
		keys = append(keys, key)
	}
	out.fixed = jose.NewSet(keys...)
	if len(s.Keys) > 0 && s.JWKSURL == "" {
		return out, faults
	}
	load, f := s.loader(c)
	if f != nil {
		return out, append(faults, f...)
	}
	if faults == nil {
		out.at = s.JWKSURL
		if out.at == "" {
			out.at = s.Issuer
		}
		out.source = env.Keep("keys "+identify.Fingerprint(s.Issuer, s.JWKSURL, c.Refresh, c.Cooldown, c.HTTP, c.HTTP.Files()), func() any {
			return jose.NewSource(env.Log.With("issuer", s.Issuer), jose.Timing{
				Refresh: c.Refresh.D(), Cooldown: c.Cooldown.D(), Patience: patience, Still: env.Still,
			}, load)
		}).(*jose.Source)
	}
	return out, faults
}

// loader returns what loads the issuer's keys.
func (s *Issuer) loader(c *Config) (func(context.Context) (*jose.Set, error), []error) {
	at, field := s.JWKSURL, "jwks_url"
	if at == "" {
		at, field = strings.TrimSuffix(s.Issuer, "/")+"/.well-known/openid-configuration", "issuer"
	}
	if f := c.HTTP.Check(at); f != nil {
		f.Field = field
		if field == "issuer" {
			f.Hint = "give jwks_url or keys: the issuer is no URL to ask for its keys"
		}
		return nil, []error{f}
	}
	client, err := fetch.New(c.HTTP)
	if err != nil {
		return nil, []error{identify.Within("http", err)}
	}
	return func(ctx context.Context) (*jose.Set, error) {
		url := at
		if s.JWKSURL == "" {
			var err error
			if url, err = discover(ctx, client, c.HTTP, at, s.Issuer); err != nil {
				return nil, err
			}
		}
		data, err := client.Get(ctx, url)
		if err != nil {
			return nil, fmt.Errorf("keys at %q: %w", url, err)
		}
		return jose.ParseSet(data)
	}, nil
}

// discover asks an issuer where its keys are (OpenID Connect Discovery 1.0,
// section 4). What it says of itself must be what we know it by.
func discover(ctx context.Context, client *fetch.Client, s fetch.Settings, at, name string) (string, error) {
	data, err := client.Get(ctx, at)
	if err != nil {
		return "", fmt.Errorf("discovery at %q: %w", at, err)
	}
	m, err := jose.Object(data)
	if err != nil {
		return "", fmt.Errorf("discovery at %q: %w", at, err)
	}
	if m["issuer"] != name {
		return "", fmt.Errorf("discovery at %q is of issuer %q", at, m["issuer"])
	}
	url, _ := m["jwks_uri"].(string)
	if f := s.Check(url); f != nil {
		return "", fmt.Errorf("discovery at %q: jwks_uri: %w", at, f)
	}
	return url, nil
}

func (k *Key) compile() (*jose.Key, *policy.Fault) {
	switch {
	case k.PublicKey.IsSet() == k.Secret.IsSet():
		return nil, &policy.Fault{Text: "a key is either a public key or a secret", Hint: "give one of public_key and secret"}
	case k.Secret.IsSet() && !strings.HasPrefix(k.Algorithm, "HS"):
		return nil, &policy.Fault{Field: "algorithm", Text: "a secret needs its algorithm", Hint: "write HS256"}
	case k.Secret.IsSet():
		key, err := jose.NewKey(k.ID, k.Algorithm, []byte(k.Secret.Reveal()))
		if err != nil {
			return nil, &policy.Fault{Field: "secret", Text: err.Error()}
		}
		return key, nil
	}
	key, err := jose.ParseKey(k.PublicKey.Reveal())
	if err == nil && key.Secret() {
		err = errors.New("this is a shared secret")
	}
	if err == nil && k.Algorithm != "" {
		if !key.Allows(k.Algorithm) {
			return nil, &policy.Fault{Field: "algorithm", Text: fmt.Sprintf("the key is not one of %s", k.Algorithm)}
		}
		key.Alg = k.Algorithm
	}
	if err != nil {
		return nil, &policy.Fault{Field: "public_key", Text: err.Error()}
	}
	if k.ID != "" {
		key.ID = k.ID
	}
	return key, nil
}

// find returns the keys that a token may have been signed with.
func (i *issuer) find(kid, alg string) ([]*jose.Key, error) {
	if i.algorithms != nil && !slices.Contains(i.algorithms, alg) {
		return nil, fmt.Errorf("algorithm %q is not one of the issuer", alg)
	}
	keys := i.known(kid, alg)
	if keys != nil || i.source == nil {
		return keys, nil
	}
	return i.source.Find(kid, alg)
}

// known returns those of the keys that were given beforehand.
func (i *issuer) known(kid, alg string) []*jose.Key {
	keys := i.fixed.Find(kid, alg)
	if keys == nil && kid != "" {
		// A key that was given without an id is good for any.
		for _, k := range i.fixed.Find("", alg) {
			if k.ID == "" {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// secrets takes part in fingerprints for what they do not show themselves.
func (k *Key) secrets() string { return k.Secret.Fingerprint() + k.PublicKey.Fingerprint() }
