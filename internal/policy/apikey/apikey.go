// Package apikey is the policy that knows consumers by their API keys. It owns
// where a key stands in a request; whose it is, is the consumers' business, who
// have only its hash.
package apikey

import (
	"errors"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "api_key".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "api_key", Stage: policy.Identify,
		New: func() policy.Config { return &Config{Realm: "gatehouse", Attempts: identify.DefaultAttempts()} },
		Doc: "Identifies consumers by an API key in a header field, query parameter or cookie.",
	}
}

// Config says where the key stands.
type Config struct {
	// Header field that holds the key. Default: "X-API-Key", unless query or cookie is given.
	Header string `yaml:"header" example:"X-API-Key"`
	// What stands before the key in the field, with a space between them.
	Scheme string `yaml:"scheme" example:"ApiKey"`
	// Query parameter that holds the key. Addresses end up in logs and histories: prefer a field.
	Query string `yaml:"query" example:"api_key"`
	// Cookie that holds the key.
	Cookie string `yaml:"cookie" example:"api_key"`
	// Whether the service sees the key. By default it is taken out of the request.
	Forward bool `yaml:"forward"`
	// What the key is good for, shown to clients that have none.
	Realm string `yaml:"realm"`
	// Whether requests without a key go on, as nobody. A wrong key is refused all the same.
	Optional bool `yaml:"optional"`
	// Consumer that requests without a key belong to. A wrong key is refused all the same.
	Anonymous string `yaml:"anonymous" example:"guest"`
	// Fields that tell the service who asks, by name: "consumer", "subject", "method", "credential", "groups", "scopes", "labels.NAME" or "claims.NAME". Fields of these names that a client sends are removed.
	Headers map[string]string `yaml:"headers"`
	// Limits on guessing.
	Attempts identify.Attempts `yaml:"attempts"`
}

// consumers is what the policy needs of the gateway, under the name
// "consumers".
type consumers interface {
	// APIKey identifies the consumer of a key by the key's SHA-256.
	APIKey(sum [32]byte, who *exchange.Who) error
}

// Compile checks the settings.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	m := &method{place: identify.Place{Header: c.Header, Scheme: c.Scheme, Query: c.Query, Cookie: c.Cookie}, forward: c.Forward, realm: c.Realm}
	if c.Header == "" && c.Query == "" && c.Cookie == "" {
		m.place.Header = "X-API-Key"
	}
	faults := m.place.Compile("header", "query", "cookie")
	if c.Scheme != "" && m.place.Header == "" {
		faults = append(faults, &policy.Fault{Field: "scheme", Text: "a scheme stands in a header field only"})
	}
	if f := identify.CheckRealm(c.Realm); f != nil {
		faults = append(faults, f)
	}
	var ok bool
	if m.consumers, ok = env.Service("consumers").(consumers); !ok {
		faults = append(faults, errors.New("there are no consumers to identify"))
	}
	step, err := identify.New(env, m, identify.KeptGuard(env, c.Attempts), identify.Options{
		Optional: c.Optional, Anonymous: c.Anonymous, Headers: c.Headers,
	})
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	return step, nil
}

// longest is the longest key in bytes that is looked at.
const longest = 512

type method struct {
	place     identify.Place
	forward   bool
	realm     string
	consumers consumers
}

func (m *method) Prove(x *exchange.Exchange) error {
	key, err := m.place.Find(&x.Request, longest)
	switch {
	case err != nil:
		return &identify.Refusal{Cause: err}
	case key == "":
		return identify.ErrNone
	}
	sum, known := x.Client.Proved.SHA256(key)
	if err := m.consumers.APIKey(sum, &x.Who); err != nil {
		return &identify.Refusal{Cause: err}
	}
	if !known {
		x.Client.Proved.Right(key, sum)
	}
	return nil
}

func (m *method) Place() string { return m.place.String() }

func (m *method) Hide(x *exchange.Exchange, proved bool) {
	if !m.forward || !proved {
		m.place.Remove(&x.Request)
	}
}

func (m *method) Challenge(bool) string {
	scheme := m.place.Scheme
	if scheme == "" {
		scheme = "ApiKey"
	}
	s := scheme + ` realm="` + m.realm + `"`
	switch {
	case m.place.Query != "":
		s += `, in="query", name="` + identify.Quote(m.place.Query) + `"`
	case m.place.Cookie != "":
		s += `, in="cookie", name="` + m.place.Cookie + `"`
	case m.place.Scheme == "":
		s += `, in="header", name="` + m.place.Header + `"`
	}
	return s
}
