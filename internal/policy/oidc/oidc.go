// Package oidc is the policy that has people sign in with a browser (OpenID
// Connect, authorization code with PKCE). It owns the way to the provider and
// back, the session that comes of it, and its end. A session is a sealed cookie:
// the gateway keeps none, only which have ended.
package oidc

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/replay"
)

// Kind is the kind "oidc".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "oidc", Stage: policy.Identify,
		New: func() policy.Config {
			sharing := identify.DefaultSharing()
			return &Config{
				Scopes: policy.StringList{"openid", "profile", "email"}, SubjectClaim: "sub", Cookie: "gh_session",
				Callback: "/_oidc/callback", Logout: "/_oidc/logout", BackChannel: "/_oidc/backchannel", AfterLogout: "/",
				Session: policy.Duration(8 * time.Hour), Leeway: policy.Duration(30 * time.Second), Refresh: policy.Duration(15 * time.Minute),
				Forward: "none", UserInfo: true, HTTP: fetch.Default(),
				Store: sharing.Store, OnFailure: sharing.OnFailure, Timeout: sharing.Timeout,
			}
		},
		Doc: "Has people sign in with a browser (OpenID Connect).",
	}
}

// Config says with whom people sign in.
type Config struct {
	// The provider: its "iss". What else is to be known of it, it says at /.well-known/openid-configuration.
	Issuer string `yaml:"issuer" required:"true" example:"https://id.example.com"`
	// Name by which the gateway is known to the provider.
	ClientID string `yaml:"client_id" required:"true" example:"shop"`
	// The secret that belongs to it. Without one the gateway is a public client.
	ClientSecret policy.Secret `yaml:"client_secret"`
	// Secret that sessions are sealed with, at least 32 bytes. All gateways that share sessions share it; another one ends all sessions, unless the old one is in "former_secrets".
	CookieSecret policy.Secret `yaml:"cookie_secret" required:"true"`
	// Secrets that sessions were sealed with before. They can still be opened; what is sealed anew is with "cookie_secret". Remove one when its sessions are over.
	FormerSecrets []policy.Secret `yaml:"former_secrets"`
	// What the provider is asked for.
	Scopes policy.StringList `yaml:"scopes"`

	// Path that the provider sends browsers back to. The route has to match it, and the provider has to know it.
	Callback string `yaml:"callback"`
	// Path that ends the session, here and with the provider.
	Logout string `yaml:"logout"`
	// Path that the provider tells of ended sessions (back-channel logout).
	BackChannel string `yaml:"back_channel"`
	// Where browsers go after signing out: a path, or a URL that the provider knows.
	AfterLogout string `yaml:"after_logout"`
	// Origin by which browsers know the gateway. Default: that of the request.
	Origin string `yaml:"origin" example:"https://shop.example.com"`

	// Name of the session's cookie. With https it gets the prefix "__Host-", which no neighbouring domain can set.
	Cookie string `yaml:"cookie"`
	// Longest time of a session; then people sign in again. Of a session that another policy began, this one takes no more of it.
	Session policy.Duration `yaml:"session" min:"1m" max:"720h"`
	// How far the clocks of provider and gateway may be apart.
	Leeway policy.Duration `yaml:"leeway" max:"10m"`
	// How often the provider's keys are loaded again.
	Refresh policy.Duration `yaml:"refresh" min:"10s" max:"24h"`
	// Which token the service gets as "Authorization: Bearer".
	Forward string `yaml:"forward" enum:"none,access_token,id_token"`

	// Claim that names who signed in.
	SubjectClaim string `yaml:"subject_claim"`
	// Claim, or the way to it with dots, that lists groups. Default: groups of the consumer only.
	GroupsClaim string `yaml:"groups_claim" example:"groups"`
	// Whether the provider is asked for what it knows of who signed in, beside what the ID token says.
	UserInfo bool `yaml:"user_info"`
	// Whether only consumers may sign in. By default whoever the provider knows may.
	ConsumersOnly bool `yaml:"consumers_only"`
	// How the provider is asked.
	HTTP fetch.Settings `yaml:"http"`

	// Where it is remembered which sessions have ended, and what was got for a refresh token: redis is what "redis" of the configuration names, so that a session ends at all gateways, and is asked for every request with a session; local is this gateway's memory; auto is redis where there is one.
	Store string `yaml:"store" enum:"auto,local,redis"`
	// What to do while redis does not answer: closed answers 503, local goes by what this gateway remembers, and a session that another one ended goes on.
	OnFailure string `yaml:"on_failure" enum:"closed,local"`
	// How long to wait for redis.
	Timeout policy.Duration `yaml:"timeout" min:"1ms" max:"10s"`

	// Whether requests without a session go on, as nobody. Nobody is then asked to sign in; a link to a path that needs it does. A session that is over is none, and the browser's cookies go.
	Optional bool `yaml:"optional"`
	// Consumer that requests without a session belong to. Nobody is then asked to sign in.
	Anonymous string `yaml:"anonymous" example:"guest"`
	// Fields that tell the service who asks, by name: "consumer", "subject", "method", "credential", "groups", "scopes", "labels.NAME" or "claims.NAME". Fields of these names that a client sends are removed.
	Headers map[string]string `yaml:"headers"`
}

// consumers is what the policy needs of the gateway, under the name
// "consumers".
type consumers interface {
	// Subject identifies the consumer of a token's issuer and subject, and
	// tells whether there is one.
	Subject(issuer, subject string, who *exchange.Who) (known bool, err error)
}

// Compile checks the settings, and begins to ask the provider about itself.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	var faults []error
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: field, Text: text, Hint: hint})
	}
	paths := make(map[string]string)
	for _, p := range []struct{ key, path string }{{"callback", c.Callback}, {"logout", c.Logout}, {"back_channel", c.BackChannel}} {
		if !strings.HasPrefix(p.path, "/") || strings.HasPrefix(p.path, "//") || strings.ContainsAny(p.path, "?#\\ ") {
			fault(p.key, fmt.Sprintf("%q is no path", p.path), "write /path")
		}
		if first := paths[p.path]; first != "" {
			fault(p.key, fmt.Sprintf("%q is the path of %s too", p.path, first), "choose another")
		}
		paths[p.path] = p.key
	}
	if !strings.HasPrefix(c.AfterLogout, "/") || strings.HasPrefix(c.AfterLogout, "//") {
		if f := c.HTTP.Check(c.AfterLogout); f != nil {
			fault("after_logout", fmt.Sprintf("%q is neither a path nor a URL", c.AfterLogout), "write /path")
		}
	}
	if u, err := url.Parse(c.Origin); c.Origin != "" && (err != nil || c.HTTP.Check(c.Origin) != nil || strings.TrimSuffix(c.Origin, "/") != u.Scheme+"://"+u.Host) {
		fault("origin", fmt.Sprintf("%q is no origin", c.Origin), "write https://host")
	}
	if strings.ContainsAny(c.Cookie, "=;, \t\".") || c.Cookie == "" {
		fault("cookie", fmt.Sprintf("%q is not a name of a cookie", c.Cookie), "use letters, digits, - and _")
	}
	for i, s := range c.secrets() {
		if len(s) < 32 {
			at := "cookie_secret"
			if i > 0 {
				at = fmt.Sprintf("former_secrets[%d]", i-1)
			}
			fault(at, "the secret has less than 32 bytes", "make one: openssl rand -base64 32")
		}
	}
	if f := c.HTTP.Check(c.Issuer); f != nil {
		f.Field = "issuer"
		faults = append(faults, f)
	}
	client, err := fetch.New(c.HTTP)
	if err != nil {
		faults = append(faults, identify.Within("http", err))
	}
	m := &method{config: c, hostCookie: "__Host-" + c.Cookie, answers: policy.NewSlot[answer](env), signIn: !c.Optional && c.Anonymous == ""}
	m.consumers, _ = env.Service("consumers").(consumers)
	if c.ConsumersOnly && m.consumers == nil {
		faults = append(faults, errors.New("there are no consumers to identify"))
	}
	shared, err := identify.Sharing{Store: c.Store, OnFailure: c.OnFailure, Timeout: c.Timeout}.Compile(env)
	if err != nil {
		faults = append(faults, err)
	}
	step, err := identify.New(env, m, nil, identify.Options{Optional: c.Optional, Anonymous: c.Anonymous, Headers: c.Headers})
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	m.seal = newSeal(c.secrets(), c.Issuer, c.ClientID)
	m.provider = env.Keep("provider "+identify.Fingerprint(c.Issuer, c.HTTP, c.Refresh), func() any { return newProvider(env, c, client) }).(*provider)
	// What has ended has, whatever else the settings say.
	m.renewals = env.Keep("renewals "+c.Issuer, func() any { return newRenewals() }).(*renewals)
	m.ended = endings{local: env.Keep("ended "+c.Issuer, func() any { return newEnded() }).(*ended), shared: shared, issuer: c.Issuer}
	m.tell = policy.NewTeller(env)
	if shared != nil {
		m.once, _ = env.Service("redis").(replay.Store)
	}
	return &runtime{step, m}, nil
}

// secrets are those that cookies may be sealed with, the one in use first.
func (c *Config) secrets() []string {
	list := []string{c.CookieSecret.Reveal()}
	for _, s := range c.FormerSecrets {
		list = append(list, s.Reveal())
	}
	return list
}

// runtime is the step of the stage, and sets cookies on answers.
type runtime struct {
	*identify.Step
	m *method
}

var (
	_ policy.OnRequest  = (*runtime)(nil)
	_ policy.OnResponse = (*runtime)(nil)
)

// Response sets the cookies of a session that was renewed.
func (r *runtime) Response(x *exchange.Exchange) { r.m.answers.Get(x).cookies.set(x) }
