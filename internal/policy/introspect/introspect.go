// Package introspect is the policy that asks the issuer of a token what it is
// worth (RFC 7662). It owns what is asked, what of the answer is believed, and
// for how long.
package introspect

import (
	"errors"
	"slices"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "introspect".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "introspect", Stage: policy.Identify,
		New: func() policy.Config {
			return &Config{
				Realm: "gatehouse", Attempts: identify.DefaultAttempts(), HTTP: fetch.Default(), Bound: identify.DefaultBound(),
				SubjectClaim: "sub", Remember: policy.Duration(time.Minute), RememberWrong: policy.Duration(10 * time.Second), Cache: 10_000,
			}
		},
		Doc: "Identifies who asks by a token that its issuer is asked about (RFC 7662).",
	}
}

// Config says whom to ask.
type Config struct {
	// URL of the issuer's introspection endpoint.
	URL string `yaml:"url" required:"true" example:"https://id.example.com/introspect"`
	// Name by which the gateway is known to the issuer.
	ClientID string `yaml:"client_id" required:"true" example:"gatehouse"`
	// The secret that belongs to it.
	ClientSecret policy.Secret `yaml:"client_secret" required:"true"`
	// What the answer's "iss" has to be, where it has one; tokens of consumers are found by it.
	Issuer string `yaml:"issuer" example:"https://id.example.com"`
	// Whom a token must be for: one of these in "aud" of the answer. "*" takes a token that is for anybody, or does not say.
	Audience policy.StringList `yaml:"audience" required:"true" example:"shop"`

	// Header field that holds the token. Default: "Authorization", unless query or cookie is given.
	Header string `yaml:"header" example:"X-Token"`
	// Query parameter that holds the token. Addresses end up in logs and histories: prefer a field.
	Query string `yaml:"query" example:"access_token"`
	// Cookie that holds the token.
	Cookie string `yaml:"cookie" example:"token"`
	// Whether the service sees the token, if it is valid.
	Forward bool `yaml:"forward"`

	// Claim that names whom the token speaks of.
	SubjectClaim string `yaml:"subject_claim"`
	// Claim, or the way to it with dots, that lists groups. Default: groups of the consumer only.
	GroupsClaim string `yaml:"groups_claim" example:"roles"`
	// Whether only tokens of consumers are taken. By default a valid token need not belong to one.
	ConsumersOnly bool `yaml:"consumers_only"`
	// What tokens have to be bound to.
	Bound identify.Bound `yaml:"bound"`

	// How long an answer is good, at most until the token expires. A token that is withdrawn is taken for so long.
	Remember policy.Duration `yaml:"remember" max:"1h"`
	// How long a token that is not good is refused without asking again.
	RememberWrong policy.Duration `yaml:"remember_wrong" max:"10m"`
	// Most tokens that are remembered.
	Cache int `yaml:"cache" min:"1" max:"1000000"`
	// How the issuer is asked.
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

// consumers is what the policy needs of the gateway, under the name
// "consumers".
type consumers interface {
	// Subject identifies the consumer of a token's issuer and subject, and
	// tells whether there is one.
	Subject(issuer, subject string, who *exchange.Who) (known bool, err error)
}

// Compile checks the settings. It asks nobody.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	m := &method{place: identify.Place{Header: c.Header, Query: c.Query, Cookie: c.Cookie}, config: c, audience: c.Audience}
	if c.Header == "" && c.Query == "" && c.Cookie == "" {
		m.place.Header, m.place.Scheme = "Authorization", "Bearer"
	}
	faults := m.place.Compile("header", "query", "cookie")
	if f := identify.CheckRealm(c.Realm); f != nil {
		faults = append(faults, f)
	}
	if f := c.HTTP.Check(c.URL); f != nil {
		f.Field = "url"
		faults = append(faults, f)
	}
	switch {
	case len(c.Audience) == 0:
		faults = append(faults, &policy.Fault{Field: "audience", Text: "the audience is empty: a token for any other service would be taken", Hint: `write whom tokens are for, or "*"`})
	case slices.Contains(c.Audience, "*"):
		m.audience = nil
	}
	m.consumers, _ = env.Service("consumers").(consumers)
	if c.ConsumersOnly && m.consumers == nil {
		faults = append(faults, errors.New("there are no consumers to identify"))
	}
	var err error
	if m.bound, err = c.Bound.Compile(env, m.place.Scheme != ""); err != nil {
		faults = append(faults, identify.Within("bound", err))
	}
	client, err := fetch.New(c.HTTP)
	if err != nil {
		faults = append(faults, identify.Within("http", err))
	}
	step, err := identify.New(env, m, identify.KeptGuard(env, c.Attempts), identify.Options{
		Optional: c.Optional, Anonymous: c.Anonymous, Headers: c.Headers,
	})
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	key := identify.Fingerprint(c, c.ClientSecret.Fingerprint(), c.HTTP.Files())
	m.client = env.Keep("client "+key, func() any { return client }).(*fetch.Client)
	m.cache = env.Keep("tokens "+key, func() any { return identify.NewTokens[token](c.Cache) }).(*identify.Tokens[token])
	return step, nil
}
