// Package jwt is the policy that knows who asks by a signed token (RFC 7519,
// RFC 6750). It owns which tokens are believed: their issuers, keys, audiences
// and times, and what they are bound to.
package jwt

import (
	"errors"
	"fmt"
	"time"

	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "jwt".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "jwt", Stage: policy.Identify,
		New: func() policy.Config {
			return &Config{
				Realm: "gatehouse", Attempts: identify.DefaultAttempts(), Forward: true,
				Leeway: policy.Duration(30 * time.Second), Types: policy.StringList{"JWT", "at+jwt"},
				SubjectClaim: "sub", Cache: 10_000,
				Refresh: policy.Duration(15 * time.Minute), Cooldown: policy.Duration(30 * time.Second),
				HTTP: fetch.Default(), Bound: identify.DefaultBound(),
			}
		},
		Doc: "Identifies who asks by a signed token (JWT).",
	}
}

// Config says which tokens are believed. The keys of one issuer stand beside
// everything else; several issuers are a list.
type Config struct {
	// The issuer: what a token's "iss" must be.
	Issuer string `yaml:"issuer" example:"https://id.example.com"`
	// Whom a token must be for: one of these in its "aud". "*" takes a token that is for anybody.
	Audience policy.StringList `yaml:"audience" example:"shop"`
	// URL of the issuer's keys. Default, where no keys are given: the one that the issuer names at /.well-known/openid-configuration.
	JWKSURL string `yaml:"jwks_url" example:"https://id.example.com/jwks"`
	// Keys of the issuer that are known beforehand.
	Keys []*Key `yaml:"keys"`
	// Algorithms that are taken, of those that fit the keys. Default: all of them.
	Algorithms policy.StringList `yaml:"algorithms" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA,Ed25519,HS256,HS384,HS512"`
	// Further issuers, each with audience and keys of its own.
	Issuers []*Issuer `yaml:"issuers"`

	// Header field that holds the token. Default: "Authorization", unless query or cookie is given.
	Header string `yaml:"header" example:"X-Token"`
	// Query parameter that holds the token. Addresses end up in logs and histories: prefer a field.
	Query string `yaml:"query" example:"access_token"`
	// Cookie that holds the token.
	Cookie string `yaml:"cookie" example:"token"`
	// Whether the service sees the token, if it is valid.
	Forward bool `yaml:"forward"`

	// How far the clocks of issuer and gateway may be apart.
	Leeway policy.Duration `yaml:"leeway" max:"10m"`
	// Types of tokens that are taken, of those that say their type: a token for another purpose is not one for access.
	Types policy.StringList `yaml:"types"`
	// Whether tokens without "exp", which are valid for ever, are taken.
	Endless bool `yaml:"endless"`
	// Claim that names whom the token speaks of.
	SubjectClaim string `yaml:"subject_claim"`
	// Claim, or the way to it with dots, that lists groups. Default: groups of the consumer only.
	GroupsClaim string `yaml:"groups_claim" example:"realm_access.roles"`
	// Whether only tokens of consumers are taken. By default a valid token need not belong to one.
	ConsumersOnly bool `yaml:"consumers_only"`
	// What tokens have to be bound to.
	Bound identify.Bound `yaml:"bound"`

	// Most tokens that are remembered as verified, until they expire.
	Cache int `yaml:"cache" min:"0" max:"1000000"`
	// How often keys are loaded again.
	Refresh policy.Duration `yaml:"refresh" min:"10s" max:"24h"`
	// Least time between loads that are caused by tokens with unknown keys.
	Cooldown policy.Duration `yaml:"cooldown" min:"1s" max:"1h"`
	// How keys are asked for.
	HTTP fetch.Settings `yaml:"http"`

	// What the token is good for, shown to clients that have none.
	Realm string `yaml:"realm"`
	// Whether requests without a token go on, as nobody. A wrong token is refused all the same.
	Optional bool `yaml:"optional"`
	// Consumer that requests without a token belong to. A wrong token is refused all the same.
	Anonymous string `yaml:"anonymous" example:"guest"`
	// Fields that tell the service who asks, by name: "consumer", "subject", "method", "credential", "groups", "scopes", "labels.NAME" or "claims.NAME". Fields of these names that a client sends are removed.
	Headers map[string]string `yaml:"headers"`
	// Limits on guessing.
	Attempts identify.Attempts `yaml:"attempts"`
}

// Issuer is who signs tokens.
type Issuer struct {
	// What a token's "iss" must be.
	Issuer string `yaml:"issuer" required:"true" example:"https://id.example.com"`
	// Whom a token must be for: one of these in its "aud". "*" takes a token that is for anybody.
	Audience policy.StringList `yaml:"audience" example:"shop"`
	// URL of the issuer's keys. Default, where no keys are given: the one that the issuer names at /.well-known/openid-configuration.
	JWKSURL string `yaml:"jwks_url" example:"https://id.example.com/jwks"`
	// Keys of the issuer that are known beforehand.
	Keys []*Key `yaml:"keys"`
	// Algorithms that are taken, of those that fit the keys. Default: all of them.
	Algorithms policy.StringList `yaml:"algorithms" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA,Ed25519,HS256,HS384,HS512"`
}

// Key is a key that is known beforehand: a public key or a shared secret.
type Key struct {
	// The "kid" of tokens that it signs. Without one it is tried for every token whose "kid" is none of the others.
	ID string `yaml:"id"`
	// The one algorithm that it is used with. Default: those that fit a public key; a secret needs one.
	Algorithm string `yaml:"algorithm" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA,Ed25519,HS256,HS384,HS512"`
	// The public key: PEM of a key or certificate, or a JWK.
	PublicKey policy.Secret `yaml:"public_key"`
	// The shared secret of HS256, HS384 or HS512, at least 32 bytes.
	Secret policy.Secret `yaml:"secret"`
}

// Compile checks the settings and begins to load keys.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	guard := identify.KeptGuard(env, c.Attempts)
	m := &method{
		place:  identify.Place{Header: c.Header, Query: c.Query, Cookie: c.Cookie},
		config: c, leeway: int64(c.Leeway.D() / time.Second),
	}
	if c.Header == "" && c.Query == "" && c.Cookie == "" {
		m.place.Header, m.place.Scheme = "Authorization", "Bearer"
	}
	faults := m.place.Compile("header", "query", "cookie")
	if f := identify.CheckRealm(c.Realm); f != nil {
		faults = append(faults, f)
	}
	if c.SubjectClaim == "" {
		faults = append(faults, &policy.Fault{Field: "subject_claim", Text: "a token that speaks of nobody identifies nobody", Hint: "write sub"})
	}
	m.consumers, _ = env.Service("consumers").(identify.Subjects)
	if c.ConsumersOnly && m.consumers == nil {
		faults = append(faults, errors.New("there are no consumers to identify"))
	}
	bound, err := c.Bound.Compile(env, m.place.Scheme != "")
	if err != nil {
		faults = append(faults, identify.Within("bound", err))
	}
	m.bound = bound
	faults = append(faults, c.issuers(env, m)...)
	step, err := identify.New(env, m, guard, identify.Options{
		Optional: c.Optional, Anonymous: c.Anonymous, Headers: c.Headers,
	})
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	m.types = typesOf(c.Types)
	if c.Cache > 0 {
		m.cache = env.Keep(m.cacheKey(), func() any { return identify.NewTokens[verified](c.Cache) }).(*identify.Tokens[verified])
	}
	return step, nil
}

// issuers compiles the issuers: the one beside everything else, and the list.
func (c *Config) issuers(env *policy.Env, m *method) (faults []error) {
	all := make(map[string]*Issuer, 1+len(c.Issuers))
	var order []*Issuer
	if c.Issuer != "" || len(c.Issuers) == 0 {
		order = append(order, &Issuer{c.Issuer, c.Audience, c.JWKSURL, c.Keys, c.Algorithms})
	} else if len(c.Audience) > 0 || c.JWKSURL != "" || len(c.Keys) > 0 || len(c.Algorithms) > 0 {
		faults = append(faults, &policy.Fault{Field: "issuer", Text: "audience, jwks_url, keys and algorithms belong to an issuer", Hint: "give issuer, or move them into issuers"})
	}
	order = append(order, c.Issuers...)
	m.issuers = make(map[string]*issuer, len(order))
	for i, one := range order {
		at := ""
		if j := i - (len(order) - len(c.Issuers)); j >= 0 {
			at = fmt.Sprintf("issuers[%d]", j)
		}
		switch {
		case one == nil:
			continue // decoding has said what is wrong with it
		case one.Issuer == "":
			faults = append(faults, &policy.Fault{Field: "issuer", Text: "the issuer is missing: anybody could sign", Hint: "write what tokens have as \"iss\""})
			continue
		case all[one.Issuer] != nil:
			faults = append(faults, &policy.Fault{Field: at, Text: fmt.Sprintf("issuer %q stands twice", one.Issuer)})
			continue
		}
		all[one.Issuer] = one
		compiled, more := one.compile(env, c)
		for _, err := range more {
			faults = append(faults, identify.Within(at, err))
		}
		m.issuers[one.Issuer] = compiled
	}
	return faults
}
