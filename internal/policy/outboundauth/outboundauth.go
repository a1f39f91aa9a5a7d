// Package outboundauth is the policy that shows the service a credential of the
// gateway's own. It owns how one is made or got, and refuses to let a request go
// on without it.
package outboundauth

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "outbound_auth".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "outbound_auth", Stage: policy.Transform,
		New: func() policy.Config { return new(Config) },
		Doc: "Shows the service a credential of the gateway's own.",
	}
}

// Config has exactly one of the ways.
type Config struct {
	// A user name and password (RFC 7617).
	Basic *Basic `yaml:"basic"`
	// A fixed bearer token.
	Bearer policy.Secret `yaml:"bearer"`
	// A field of any name.
	Header *Header `yaml:"header"`
	// A token that the gateway gets for itself (OAuth 2.0 client credentials).
	ClientCredentials *ClientCredentials `yaml:"client_credentials"`
	// A token that the gateway gets for that of the client (RFC 8693).
	TokenExchange *TokenExchange `yaml:"token_exchange"`
	// A token that the gateway makes. The policy "jwks" shows the key to verify it with.
	JWT *Minted `yaml:"jwt"`
	// A signature as Amazon's services want it (SigV4).
	AWS *AWS `yaml:"aws"`
}

// Basic is a user name and password.
type Basic struct {
	// User name, without a colon.
	Username string `yaml:"username" required:"true"`
	// Password.
	Password policy.Secret `yaml:"password" required:"true"`
}

// Header is a field with a secret.
type Header struct {
	// Name of the field.
	Name string `yaml:"name" required:"true" example:"X-API-Key"`
	// Its value.
	Value policy.Secret `yaml:"value" required:"true"`
}

// ClientCredentials says where the gateway gets a token for itself.
type ClientCredentials struct {
	// URL of the token endpoint.
	TokenURL string `yaml:"token_url" required:"true" example:"https://id.example.com/token"`
	// Name by which the gateway is known there.
	ClientID string `yaml:"client_id" required:"true" example:"gatehouse"`
	// The secret that belongs to it.
	ClientSecret policy.Secret `yaml:"client_secret" required:"true"`
	// What the token is to be good for.
	Scopes policy.StringList `yaml:"scopes"`
	// Whom the token is to be for, where the issuer asks.
	Audience string `yaml:"audience"`
	// How the issuer is asked.
	HTTP fetch.Settings `yaml:"http"`
}

// TokenExchange says where the client's token is exchanged.
type TokenExchange struct {
	// URL of the token endpoint.
	TokenURL string `yaml:"token_url" required:"true" example:"https://id.example.com/token"`
	// Name by which the gateway is known there.
	ClientID string `yaml:"client_id" required:"true" example:"gatehouse"`
	// The secret that belongs to it.
	ClientSecret policy.Secret `yaml:"client_secret" required:"true"`
	// What the token is to be good for.
	Scopes policy.StringList `yaml:"scopes"`
	// Whom the token is to be for.
	Audience string `yaml:"audience"`
	// URL of the service that the token is to be for.
	Resource string `yaml:"resource"`
	// Most tokens that are remembered, each until most of its time is over.
	Cache int `yaml:"cache" min:"1" max:"1000000"`
	// How the issuer is asked.
	HTTP fetch.Settings `yaml:"http"`
}

// Defaults remember ten thousand tokens.
func (t *TokenExchange) Defaults() { t.Cache = 10_000 }

// Minted says what a token that the gateway makes is like.
type Minted struct {
	// The private key in PEM: RSA, P-256, P-384, P-521 or Ed25519.
	Key policy.Secret `yaml:"key" required:"true"`
	// Its "kid". Default: the key's thumbprint.
	KeyID string `yaml:"key_id"`
	// Algorithm. Default: the usual one of the key.
	Algorithm string `yaml:"algorithm" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA,Ed25519"`
	// The token's "iss".
	Issuer string `yaml:"issuer" required:"true" example:"https://gateway.example.com"`
	// The token's "aud".
	Audience policy.StringList `yaml:"audience" required:"true"`
	// How long a token is valid.
	Lifetime policy.Duration `yaml:"lifetime" min:"5s" max:"1h"`
	// Further claims by name, each something that is known of who asks: "consumer", "subject", "method", "credential", "groups", "scopes", "labels.NAME" or "claims.NAME". "sub" is the subject unless it stands here.
	Claims map[string]string `yaml:"claims"`
	// Field that holds the token. In "Authorization" it follows "Bearer".
	Header string `yaml:"header"`
}

// Defaults make tokens for a minute.
func (m *Minted) Defaults() {
	m.Lifetime, m.Header = policy.Duration(time.Minute), "Authorization"
}

// AWS says how requests are signed for Amazon's services.
type AWS struct {
	// Region of the service.
	Region string `yaml:"region" required:"true" example:"eu-central-1"`
	// Name of the service.
	Service string `yaml:"service" required:"true" example:"execute-api"`
	// Id of the access key.
	AccessKeyID string `yaml:"access_key_id" required:"true"`
	// The secret of the access key.
	SecretAccessKey policy.Secret `yaml:"secret_access_key" required:"true"`
	// Session token of a temporary key.
	SessionToken policy.Secret `yaml:"session_token"`
	// Host that is signed, where the service sees another one than the client's: see "host" of the upstream.
	Host string `yaml:"host" example:"bucket.s3.eu-central-1.amazonaws.com"`
	// Largest body, which is held in memory to be signed; above it 413. 0 leaves bodies unsigned, which only S3 takes.
	Body policy.Size `yaml:"body" max:"64MiB"`
}

// Defaults sign bodies of up to a mebibyte.
func (a *AWS) Defaults() { a.Body = 1 << 20 }

// Compile checks the settings.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	var ways []string
	for _, w := range []struct {
		name string
		set  bool
	}{
		{"basic", c.Basic != nil}, {"bearer", c.Bearer.IsSet()}, {"header", c.Header != nil}, {"client_credentials", c.ClientCredentials != nil},
		{"token_exchange", c.TokenExchange != nil}, {"jwt", c.JWT != nil}, {"aws", c.AWS != nil},
	} {
		if w.set {
			ways = append(ways, w.name)
		}
	}
	if len(ways) != 1 {
		return nil, &policy.Fault{Text: fmt.Sprintf("%d ways stand where one is wanted", len(ways)), Hint: "give one of basic, bearer, header, client_credentials, token_exchange, jwt and aws"}
	}
	switch {
	case c.Basic != nil:
		return c.Basic.compile()
	case c.Bearer.IsSet():
		return fixed("bearer", "Authorization", "Bearer "+c.Bearer.Reveal())
	case c.Header != nil:
		return fixed("header.value", c.Header.Name, c.Header.Value.Reveal())
	case c.ClientCredentials != nil:
		p, err := c.ClientCredentials.compile(env)
		return p, within("client_credentials", err)
	case c.TokenExchange != nil:
		p, err := c.TokenExchange.compile(env)
		return p, within("token_exchange", err)
	case c.JWT != nil:
		p, err := c.JWT.compile()
		return p, within("jwt", err)
	}
	return c.AWS.compile()
}

func within(at string, err error) error {
	if err == nil {
		return nil
	}
	return identify.Within(at, err)
}

// constant shows a credential that never changes.
type constant struct{ field exchange.Field }

var _ policy.OnRequest = (*constant)(nil)

// Request puts the credential in the place of whatever the client sent there.
func (c *constant) Request(x *exchange.Exchange) policy.Verdict {
	h := &x.Request.Header
	h.Del(c.field.Name)
	h.Append(c.field)
	return policy.Next
}

func fixed(at, name, value string) (policy.Policy, error) {
	if f := policy.CheckField(name); f != nil {
		f.Field = "header.name"
		return nil, f
	}
	if f := policy.CheckValue(value); f != nil {
		return nil, &policy.Fault{Field: at, Text: "the secret cannot stand in a field"} // and is not shown
	}
	return &constant{exchange.Field{Name: name, Value: value, Known: exchange.LookupKnown(name)}}, nil
}

func (b *Basic) compile() (policy.Policy, error) {
	if strings.ContainsRune(b.Username, ':') {
		return nil, &policy.Fault{Field: "basic.username", Text: fmt.Sprintf("%q is not a user name: it has a colon", b.Username)}
	}
	return fixed("basic.password", "Authorization", "Basic "+encode(b.Username+":"+b.Password.Reveal()))
}

// minter makes tokens.
type minter struct {
	*Minted
	signer *jose.Signer
	claims map[string]identify.Source
}

func (m *Minted) compile() (policy.Policy, error) {
	out := &minter{Minted: m, claims: make(map[string]identify.Source)}
	var faults []error
	key, err := jose.ParsePrivate(m.Key.Reveal())
	if err == nil {
		out.signer, err = jose.NewSigner(key, m.Algorithm, m.KeyID)
	}
	if err != nil {
		faults = append(faults, &policy.Fault{Field: "key", Text: err.Error()})
	}
	if f := policy.CheckField(m.Header); f != nil {
		f.Field = "header"
		faults = append(faults, f)
	}
	out.claims["sub"], _ = identify.ParseSource("subject")
	for name, text := range m.Claims {
		source, f := identify.ParseSource(text)
		switch name {
		case "iss", "aud", "exp", "iat", "nbf", "jti":
			f = &policy.Fault{Text: fmt.Sprintf("%q is set by the gateway alone", name), Hint: "remove it"}
		}
		if f != nil {
			f.Field = "claims." + name
			faults = append(faults, f)
			continue
		}
		out.claims[name] = source
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return out, nil
}

// Request makes a token that says who asks.
func (m *minter) Request(x *exchange.Exchange) policy.Verdict {
	now := time.Now()
	claims := map[string]any{
		"iss": m.Issuer, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(m.Lifetime.D()).Unix(), "jti": x.RequestID(),
	}
	if claims["aud"] = []string(m.Audience); len(m.Audience) == 1 {
		claims["aud"] = m.Audience[0]
	}
	for name, source := range m.claims {
		if v := source.Value(&x.Who); v != nil {
			claims[name] = v
		}
	}
	token, err := m.signer.Sign(map[string]any{"typ": "JWT"}, claims)
	if err != nil {
		x.Fail(unavailable(fmt.Errorf("making a token: %w", err)))
		return policy.Stop
	}
	if exchange.LookupKnown(m.Header) == exchange.Authorization {
		token = "Bearer " + token
	}
	x.Request.Header.Set(m.Header, token)
	return policy.Next
}

// unavailable is the problem of a credential that cannot be had: the request
// does not go on without it.
func unavailable(cause error) *exchange.Problem {
	return &exchange.Problem{
		Status: 503, Code: "outbound_credential", Side: exchange.SideGateway, Retry: time.Second,
		Detail: "The gateway has no credential for the service at present.", Cause: cause,
	}
}
