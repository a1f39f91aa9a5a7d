// Package upstreamauth is the policy that gives the gateway's own credentials
// to upstreams. It owns how they are written into requests, how those that are
// tokens are got, kept and renewed, and that the caller's own Authorization
// does not go on. Who the caller is has been found out before.
package upstreamauth

import (
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/mint"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "upstream_auth".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "upstream_auth", Stage: policy.Transform,
		New: func() policy.Config { return new(Config) },
		Doc: "Gives the upstream a credential of the gateway in place of the caller's.",
	}
}

// Config holds exactly one way to make the credential. In all of them
// "Authorization" and "DPoP" of the client are removed.
type Config struct {
	// A user name and a password (RFC 7617).
	Basic *Basic `yaml:"basic"`
	// A fixed token (RFC 6750).
	Bearer *Bearer `yaml:"bearer"`
	// A fixed value of any field, such as an API key.
	Header *Header `yaml:"header"`
	// A token that the gateway asks an issuer for on its own behalf (RFC 6749, section 4.4).
	ClientCredentials *ClientCredentials `yaml:"client_credentials"`
	// A token that an issuer gives for the one that proved who the caller is (RFC 8693).
	TokenExchange *TokenExchange `yaml:"token_exchange"`
	// A token about the caller that the gateway signs (RFC 7519).
	JWT *JWT `yaml:"jwt"`
	// A signature over the request, as services of AWS ask for (Signature Version 4).
	SigV4 *SigV4 `yaml:"sigv4"`
}

// Basic is a user name and a password.
type Basic struct {
	// User name. It has no colon.
	Username string `yaml:"username" required:"true" example:"gatehouse"`
	// Password.
	Password policy.Secret `yaml:"password" required:"true"`
}

// Bearer is a fixed token.
type Bearer struct {
	// The token.
	Token policy.Secret `yaml:"token" required:"true"`
}

// Header is a field with a fixed value.
type Header struct {
	// Name of the field.
	Name string `yaml:"name" required:"true" example:"X-API-Key"`
	// Its value.
	Value policy.Secret `yaml:"value" required:"true"`
}

// ClientCredentials says whom the gateway asks for a token of its own.
type ClientCredentials struct {
	// URL of the issuer's token endpoint.
	TokenURL string `yaml:"token_url" required:"true" example:"https://id.example.com/token"`
	// Name by which the gateway is known to the issuer.
	ClientID string `yaml:"client_id" required:"true" example:"gatehouse"`
	// The secret that belongs to it.
	ClientSecret policy.Secret `yaml:"client_secret"`
	// Private key in PEM that signs what proves the gateway to the issuer, for private_key_jwt.
	ClientKey policy.Secret `yaml:"client_key"`
	// How the gateway proves itself: by the secret in Authorization or in the form, by a signed assertion (RFC 7523), or by the certificate of http (RFC 8705).
	AuthMethod string `yaml:"auth_method" enum:"client_secret_basic,client_secret_post,private_key_jwt,tls_client_auth"`
	// What the token is to allow.
	Scopes policy.StringList `yaml:"scopes" example:"orders.read"`
	// Whom the token is to be for, as some issuers want to be told.
	Audience policy.StringList `yaml:"audience" example:"orders"`
	// URLs of what the token is to be for (RFC 8707).
	Resource policy.StringList `yaml:"resource" example:"https://orders.example.com"`
	// Field that the token is sent in. In "Authorization" it is a bearer token, elsewhere it stands alone.
	Header string `yaml:"header"`
	// How long a token is used of which the issuer does not say how long it is valid.
	Lifetime policy.Duration `yaml:"lifetime" min:"1s" max:"24h"`
	// How the issuer is asked.
	HTTP fetch.Settings `yaml:"http"`
}

// Defaults sets what is used where nothing is said.
func (c *ClientCredentials) Defaults() {
	c.AuthMethod, c.Header = "client_secret_basic", "Authorization"
	c.Lifetime, c.HTTP = policy.Duration(5*time.Minute), fetch.Default()
}

// TokenExchange says who exchanges the tokens of callers.
type TokenExchange struct {
	// URL of the issuer's token endpoint.
	TokenURL string `yaml:"token_url" required:"true" example:"https://id.example.com/token"`
	// Name by which the gateway is known to the issuer.
	ClientID string `yaml:"client_id" required:"true" example:"gatehouse"`
	// The secret that belongs to it.
	ClientSecret policy.Secret `yaml:"client_secret"`
	// Private key in PEM that signs what proves the gateway to the issuer, for private_key_jwt.
	ClientKey policy.Secret `yaml:"client_key"`
	// How the gateway proves itself: by the secret in Authorization or in the form, by a signed assertion (RFC 7523), or by the certificate of http (RFC 8705).
	AuthMethod string `yaml:"auth_method" enum:"client_secret_basic,client_secret_post,private_key_jwt,tls_client_auth"`
	// What the caller's token is.
	SubjectTokenType string `yaml:"subject_token_type" enum:"access_token,id_token,jwt"`
	// What the new token is to be. Default: the issuer decides.
	RequestedTokenType string `yaml:"requested_token_type" enum:"access_token,id_token,jwt"`
	// What the new token is to allow. Default: the issuer decides.
	Scopes policy.StringList `yaml:"scopes" example:"orders.read"`
	// Whom the new token is to be for.
	Audience policy.StringList `yaml:"audience" example:"orders"`
	// URLs of what the new token is to be for (RFC 8707).
	Resource policy.StringList `yaml:"resource" example:"https://orders.example.com"`
	// Field that the token is sent in. In "Authorization" it is a bearer token, elsewhere it stands alone.
	Header string `yaml:"header"`
	// How long a token is used of which the issuer does not say how long it is valid.
	Lifetime policy.Duration `yaml:"lifetime" min:"1s" max:"24h"`
	// How long a caller's token that the issuer does not exchange is refused without asking again.
	RememberRefused policy.Duration `yaml:"remember_refused" max:"10m"`
	// Most tokens that are kept, one for each token of a caller.
	Cache int `yaml:"cache" min:"1" max:"1000000"`
	// How the issuer is asked.
	HTTP fetch.Settings `yaml:"http"`
}

// Defaults sets what is used where nothing is said.
func (c *TokenExchange) Defaults() {
	c.AuthMethod, c.Header, c.SubjectTokenType = "client_secret_basic", "Authorization", "access_token"
	c.Lifetime, c.HTTP = policy.Duration(5*time.Minute), fetch.Default()
	c.RememberRefused, c.Cache = policy.Duration(10*time.Second), 10_000
}

// JWT says what the gateway signs about callers.
type JWT struct {
	// Keys. The first one signs; those after it are there to be published, see policy jwks.
	Keys []*mint.Key `yaml:"keys" required:"true"`
	// Who says so: "iss" of the token.
	Issuer string `yaml:"issuer" required:"true" example:"https://gateway.example.com"`
	// Whom it is for: "aud" of the token.
	Audience policy.StringList `yaml:"audience" required:"true" example:"orders"`
	// What of the caller becomes "sub": "consumer", "subject", "credential", "labels.NAME" or "claims.NAME".
	Subject string `yaml:"subject"`
	// "sub" of requests of which that is not known. Default: they are refused with 403.
	Anonymous string `yaml:"anonymous" example:"guest"`
	// How long a token is valid. It is used for half of that time.
	TTL policy.Duration `yaml:"ttl" min:"10s" max:"24h"`
	// Further claims about the caller, by name: "consumer", "subject", "method", "credential", "groups", "scopes", "labels.NAME" or "claims.NAME". What is not known of a caller is left out.
	Claims map[string]string `yaml:"claims"`
	// Further claims that are always the same.
	Set map[string]string `yaml:"set"`
	// Type of the token, its "typ".
	Type string `yaml:"type"`
	// Whether every request gets a token of its own, for services that take each "jti" only once.
	Once bool `yaml:"once"`
	// Field that the token is sent in. In "Authorization" it is a bearer token, elsewhere it stands alone.
	Header string `yaml:"header"`
	// Most tokens that are kept.
	Cache int `yaml:"cache" min:"1" max:"1000000"`
}

// Defaults sets what is used where nothing is said.
func (c *JWT) Defaults() {
	c.Subject, c.TTL, c.Type, c.Header, c.Cache = "subject", policy.Duration(5*time.Minute), "JWT", "Authorization", 10_000
}

// SigV4 says what signs requests for AWS.
type SigV4 struct {
	// Region of the service.
	Region string `yaml:"region" required:"true" example:"eu-central-1"`
	// Name of the service by which it is signed.
	Service string `yaml:"service" required:"true" example:"s3"`
	// Id of the access key.
	AccessKey policy.Secret `yaml:"access_key" required:"true"`
	// The secret key that belongs to it.
	SecretKey policy.Secret `yaml:"secret_key" required:"true"`
	// Token of temporary keys.
	SessionToken policy.Secret `yaml:"session_token"`
	// Host that the service is sent, and that is signed. Default: that of the request, after rewrite.
	Host string `yaml:"host" example:"photos.s3.eu-central-1.amazonaws.com"`
	// Whether the body is signed, for which it is held in memory, or passes unsigned. Default: "unsigned" for s3 and its kin, such as s3-outposts, which allow it over TLS, and "signed" for any other service.
	Payload string `yaml:"payload" enum:"signed,unsigned"`
	// Largest body that is signed; above it 413.
	MaxBody policy.Size `yaml:"max_body" min:"1KiB" max:"1GiB"`
	// Fields "X-Amz-…" of the client that go on, and are signed: what they ask for is asked with the rights of the gateway. A name may end in "*". Others are removed.
	Fields policy.StringList `yaml:"fields" example:"X-Amz-Target"`
}

// Defaults sets what is used where nothing is said.
func (c *SigV4) Defaults() { c.MaxBody = 1 << 20 }

// Compile checks the settings. It asks nobody.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	var ways []string
	var out policy.Policy
	var err error
	way := func(name string, given bool, compile func() (policy.Policy, error)) {
		if !given {
			return
		}
		if ways = append(ways, name); len(ways) == 1 {
			if out, err = compile(); err != nil {
				err = identify.Within(name, err)
			}
		}
	}
	way("basic", c.Basic != nil, func() (policy.Policy, error) { return c.Basic.compile() })
	way("bearer", c.Bearer != nil, func() (policy.Policy, error) { return c.Bearer.compile() })
	way("header", c.Header != nil, func() (policy.Policy, error) { return c.Header.compile() })
	way("client_credentials", c.ClientCredentials != nil, func() (policy.Policy, error) { return c.ClientCredentials.compile(env) })
	way("token_exchange", c.TokenExchange != nil, func() (policy.Policy, error) { return c.TokenExchange.compile(env) })
	way("jwt", c.JWT != nil, func() (policy.Policy, error) { return c.JWT.compile(env) })
	way("sigv4", c.SigV4 != nil, func() (policy.Policy, error) { return c.SigV4.compile() })
	switch {
	case len(ways) == 0:
		return nil, &policy.Fault{Text: "there is no credential", Hint: "give one of basic, bearer, header, client_credentials, token_exchange, jwt and sigv4"}
	case len(ways) > 1:
		return nil, &policy.Fault{Text: "there are several credentials: " + strings.Join(ways, ", "), Hint: "give one of them"}
	case err != nil:
		return nil, err
	}
	return out, nil
}

// hide removes the credentials that the caller gave to the gateway. They are
// nobody's business behind it.
func hide(h *exchange.Header) {
	h.DelKnown(exchange.Authorization)
	h.Del("DPoP")
}

// fixed is a credential that is always the same.
type fixed struct{ field exchange.Field }

var _ policy.OnRequest = (*fixed)(nil)

func (f *fixed) Request(x *exchange.Exchange) policy.Verdict {
	h := &x.Request.Header
	hide(h)
	h.Del(f.field.Name)
	h.Append(f.field)
	return policy.Next
}

// Conceal implements policy.Conceals.
func (f *fixed) Conceal(x *exchange.Exchange) { x.Request.Header.Del(f.field.Name) }

func (c *Basic) compile() (policy.Policy, error) {
	var faults []error
	// RFC 7617, section 2.
	if strings.Contains(c.Username, ":") || control(c.Username) {
		faults = append(faults, &policy.Fault{Field: "username", Text: "a user name has no colon and no control characters"})
	}
	if control(c.Password.Reveal()) {
		faults = append(faults, &policy.Fault{Field: "password", Text: "a password has no control characters"})
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	return authorization("Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password.Reveal()))), nil
}

func control(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func authorization(value string) *fixed {
	return &fixed{exchange.Field{Name: "Authorization", Value: value, Known: exchange.Authorization}}
}

func (c *Bearer) compile() (policy.Policy, error) {
	if !isBearer(c.Token.Reveal()) {
		return nil, &policy.Fault{Field: "token", Text: "this is not a token (RFC 6750, section 2.1)", Hint: "use header for a value of another form"}
	}
	return authorization("Bearer " + c.Token.Reveal()), nil
}

// longest is the longest token in bytes that is sent to an upstream.
const longest = 16 << 10

// isBearer tells whether a text is a b64token (RFC 6750, section 2.1).
func isBearer(s string) bool {
	body := strings.TrimRight(s, "=")
	return body != "" && len(s) <= longest && !strings.ContainsFunc(body, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-._~+/", r)
	})
}

func (c *Header) compile() (policy.Policy, error) {
	var faults []error
	if f := policy.CheckField(c.Name); f != nil {
		f.Field = "name"
		faults = append(faults, f)
	}
	if f := policy.CheckValue(c.Value.Reveal()); f != nil {
		// What is wrong is said without the value, which is not to be shown.
		faults = append(faults, &policy.Fault{Field: "value", Text: "this is not a field value: it is too long, or holds control characters or outer white space"})
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	return &fixed{exchange.Field{Name: c.Name, Value: c.Value.Reveal(), Known: exchange.LookupKnown(c.Name)}}, nil
}

// place is the field that a token is sent in.
type place struct {
	field  exchange.Field // without a value
	scheme string         // what stands before the token, with its space
}

func newPlace(name string) (place, *policy.Fault) {
	if f := policy.CheckField(name); f != nil {
		f.Field = "header"
		return place{}, f
	}
	p := place{field: exchange.Field{Name: name, Known: exchange.LookupKnown(name)}}
	if p.field.Known == exchange.Authorization {
		p.scheme = "Bearer "
	}
	return p, nil
}

// Conceal implements policy.Conceals.
func (p *place) Conceal(x *exchange.Exchange) { x.Request.Header.Del(p.field.Name) }

// put sends a field value that scheme and token make.
func (p *place) put(h *exchange.Header, value string) {
	hide(h)
	h.Del(p.field.Name)
	f := p.field
	f.Value = value
	h.Append(f)
}
