package upstreamauth

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy"
)

// endpoint is the token endpoint of an issuer (RFC 6749, section 3.2).
type endpoint struct {
	url      string
	client   *fetch.Client
	id       string
	secret   string
	method   string
	signer   *jose.Signer // of private_key_jwt
	lifetime time.Duration
	scheme   string // what stands before the token in its field
}

// granted is the answer of a token endpoint.
type granted struct {
	value    string
	life     time.Duration
	issued   string // "issued_token_type"
	declined string // the error code of an answer that is none, "" when there is none
}

// newEndpoint checks what both ways to ask an issuer have in common.
func newEndpoint(c *ClientCredentials) (*endpoint, []error) {
	var faults []error
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: field, Text: text, Hint: hint})
	}
	e := &endpoint{url: c.TokenURL, id: c.ClientID, secret: c.ClientSecret.Reveal(), method: c.AuthMethod, lifetime: c.Lifetime.D()}
	if f := c.HTTP.Check(c.TokenURL); f != nil {
		f.Field = "token_url"
		faults = append(faults, f)
	}
	if c.ClientID == "" || control(c.ClientID) {
		fault("client_id", "the name of the gateway is empty or has control characters", "")
	}
	bySecret := strings.HasPrefix(c.AuthMethod, "client_secret_")
	switch {
	case bySecret && !c.ClientSecret.IsSet():
		fault("client_secret", c.AuthMethod+" needs a secret", "give client_secret, or another auth_method")
	case !bySecret && c.ClientSecret.IsSet():
		fault("client_secret", c.AuthMethod+" uses no secret", "remove it")
	}
	switch byKey := c.AuthMethod == "private_key_jwt"; {
	case byKey && !c.ClientKey.IsSet():
		fault("client_key", "private_key_jwt needs a private key", "write { file: key.pem }")
	case !byKey && c.ClientKey.IsSet():
		fault("client_key", c.AuthMethod+" uses no private key", "remove it, or write auth_method: private_key_jwt")
	case byKey:
		key, err := jose.ParsePrivate(c.ClientKey.Reveal())
		if err == nil {
			e.signer, err = jose.NewSigner(key, "", "")
		}
		if err != nil {
			fault("client_key", "this is not a private key that can be used", "give one in PEM")
		}
	}
	if c.AuthMethod == "tls_client_auth" && c.HTTP.CertFile == "" {
		fault("http", "tls_client_auth needs a certificate", "give cert_file and key_file")
	}
	for i, s := range c.Scopes {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			fault(fmt.Sprintf("scopes[%d]", i), fmt.Sprintf("%q is not a scope (RFC 6749, section 3.3)", s), "write each as an entry of its own")
		}
	}
	for i, r := range c.Resource {
		if u, err := url.Parse(r); err != nil || !u.IsAbs() || u.Fragment != "" {
			fault(fmt.Sprintf("resource[%d]", i), fmt.Sprintf("%q is not an absolute URL without a fragment (RFC 8707, section 2)", r), "")
		}
	}
	var err error
	if e.client, err = fetch.New(c.HTTP); err != nil {
		faults = append(faults, identify.Within("http", err))
	}
	return e, faults
}

// shown is a URL without its query, which may hold what nobody is to see.
func shown(url string) string {
	url, _, _ = strings.Cut(url, "?")
	return url
}

// ask posts a form and reads the answer. An error means that it is not one.
func (e *endpoint) ask(ctx context.Context, form url.Values) (*granted, error) {
	h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"application/json"}}
	if err := e.prove(h, form); err != nil {
		return nil, err
	}
	a, err := e.client.Do(ctx, http.MethodPost, e.url, h, []byte(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("asking for a token: %w", err)
	}
	if a.Status != http.StatusOK {
		if code := declined(a); code != "" {
			return &granted{declined: code}, nil
		}
		return nil, fmt.Errorf("asking for a token: the answer has status %d", a.Status)
	}
	g, err := e.read(a.Body)
	if err != nil {
		return nil, fmt.Errorf("asking for a token: %w", err)
	}
	return g, nil
}

// prove adds what proves who the gateway is.
func (e *endpoint) prove(h http.Header, form url.Values) error {
	if e.method == "client_secret_basic" {
		// Both are encoded as in a form before they become a user name and a
		// password (RFC 6749, section 2.3.1).
		text := url.QueryEscape(e.id) + ":" + url.QueryEscape(e.secret)
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(text)))
		return nil
	}
	form.Set("client_id", e.id)
	switch e.method {
	case "client_secret_post":
		form.Set("client_secret", e.secret)
	case "private_key_jwt": // RFC 7523, sections 2.2 and 3
		now := time.Now().Unix()
		assertion, err := e.signer.Sign(map[string]any{"typ": "JWT"}, map[string]any{
			"iss": e.id, "sub": e.id, "aud": e.url, "jti": rand.Text(), "iat": now, "exp": now + 60,
		})
		if err != nil {
			return fmt.Errorf("signing what proves the gateway: %w", err)
		}
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion)
	}
	return nil
}

// read reads a good answer (RFC 6749, section 5.1).
func (e *endpoint) read(body []byte) (*granted, error) {
	m, err := jose.Object(body)
	if err != nil {
		return nil, err
	}
	value, _ := m["access_token"].(string)
	switch kind, _ := m["token_type"].(string); {
	case !isBearer(value):
		return nil, errors.New(`the answer has no "access_token" that can be sent`)
	case !strings.EqualFold(kind, "Bearer") && kind != "N_A": // the latter: RFC 8693, section 2.2.1
		return nil, fmt.Errorf("tokens of type %.20q cannot be sent", kind)
	}
	g := &granted{value: e.scheme + value, life: e.lifetime}
	g.issued, _ = m["issued_token_type"].(string)
	if v, there := m["expires_in"]; there {
		var seconds int64
		switch v := v.(type) {
		case int64:
			seconds = v
		case float64:
			seconds = int64(min(v, longestLife.Seconds()))
		}
		if seconds <= 0 {
			return nil, errors.New(`the answer's "expires_in" is no time`)
		}
		g.life = time.Duration(min(seconds, int64(longestLife/time.Second))) * time.Second
	}
	return g, nil
}

// declined returns the code of an answer that says why there is no token (RFC
// 6749, section 5.2), "" for any other answer.
func declined(a *fetch.Answer) string {
	if a.Status != http.StatusBadRequest && a.Status != http.StatusUnauthorized && a.Status != http.StatusForbidden {
		return ""
	}
	m, err := jose.Object(a.Body)
	if err != nil {
		return ""
	}
	code, _ := m["error"].(string)
	if len(code) > 64 || strings.ContainsFunc(code, func(r rune) bool { return r < ' ' || r > '~' }) {
		return ""
	}
	return code
}

func (c *ClientCredentials) compile(env *policy.Env) (policy.Policy, error) {
	e, faults := newEndpoint(c)
	p, f := newPlace(c.Header)
	if f != nil {
		faults = append(faults, f)
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	e.scheme = p.scheme
	scope := strings.Join(c.Scopes, " ")
	key := "client_credentials " + identify.Fingerprint(c, c.ClientSecret.Fingerprint(), c.ClientKey.Fingerprint())
	kept := env.Keep(key, func() any {
		return &tokens{
			log: env.Log.With("issuer", shown(c.TokenURL)), client: e.client, timeout: c.HTTP.Timeout.D(),
			cache: identify.NewTokens[token](1), flights: make(map[string]*flight),
			ask: func(ctx context.Context, _ string) (string, time.Duration, error) {
				form := url.Values{"grant_type": {"client_credentials"}}
				if scope != "" {
					form.Set("scope", scope)
				}
				more(form, c.Audience, c.Resource)
				g, err := e.ask(ctx, form)
				switch {
				case err != nil:
					return "", 0, err
				case g.declined != "":
					return "", 0, fmt.Errorf("asking for a token: the issuer says %q", g.declined)
				}
				return g.value, g.life, nil
			},
		}
	}).(*tokens)
	return &issued{tokens: kept, place: p, at: shown(c.TokenURL)}, nil
}

// more adds whom the token is for, each a parameter of its own (RFC 8693,
// section 2.1).
func more(form url.Values, audience, resource []string) {
	if len(audience) > 0 {
		form["audience"] = slices.Clone(audience)
	}
	if len(resource) > 0 {
		form["resource"] = slices.Clone(resource)
	}
}

const (
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	tokenType     = "urn:ietf:params:oauth:token-type:"
)

func (c *TokenExchange) compile(env *policy.Env) (policy.Policy, error) {
	e, faults := newEndpoint(&ClientCredentials{
		TokenURL: c.TokenURL, ClientID: c.ClientID, ClientSecret: c.ClientSecret, ClientKey: c.ClientKey, AuthMethod: c.AuthMethod,
		Scopes: c.Scopes, Audience: c.Audience, Resource: c.Resource, Lifetime: c.Lifetime, HTTP: c.HTTP,
	})
	p, f := newPlace(c.Header)
	if f != nil {
		faults = append(faults, f)
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	e.scheme = p.scheme
	key := "token_exchange " + identify.Fingerprint(c, c.ClientSecret.Fingerprint(), c.ClientKey.Fingerprint())
	kept := env.Keep(key, func() any {
		return &tokens{
			log: env.Log.With("issuer", shown(c.TokenURL)), client: e.client, timeout: c.HTTP.Timeout.D(),
			remember: c.RememberRefused.D(), forgives: 2, // one caller's odd token is not everybody's pause
			cache: identify.NewTokens[token](c.Cache), flights: make(map[string]*flight),
			ask: func(ctx context.Context, subject string) (string, time.Duration, error) {
				return c.exchange(ctx, e, subject)
			},
		}
	}).(*tokens)
	return &issued{tokens: kept, place: p, at: shown(c.TokenURL), caller: true}, nil
}

// exchange asks for the token in place of the caller's (RFC 8693, section 2).
func (c *TokenExchange) exchange(ctx context.Context, e *endpoint, subject string) (string, time.Duration, error) {
	form := url.Values{
		"grant_type": {grantExchange}, "subject_token": {subject}, "subject_token_type": {tokenType + c.SubjectTokenType},
	}
	if c.RequestedTokenType != "" {
		form.Set("requested_token_type", tokenType+c.RequestedTokenType)
	}
	if len(c.Scopes) > 0 {
		form.Set("scope", strings.Join(c.Scopes, " "))
	}
	more(form, c.Audience, c.Resource)
	g, err := e.ask(ctx, form)
	switch {
	case err != nil:
		return "", 0, err
	case g.declined == "invalid_request", g.declined == "invalid_grant", g.declined == "access_denied", g.declined == "invalid_token":
		// The caller's token is not good for this (RFC 8693, section 2.2.2).
		return "", 0, &refusal{fmt.Errorf("exchanging the caller's token: the issuer says %q", g.declined)}
	case g.declined != "":
		return "", 0, fmt.Errorf("exchanging a token: the issuer says %q", g.declined)
	case g.issued == "":
		return "", 0, errors.New(`exchanging a token: the answer has no "issued_token_type"`)
	case c.RequestedTokenType != "" && g.issued != tokenType+c.RequestedTokenType:
		return "", 0, fmt.Errorf("exchanging a token: the answer is of type %.80q", g.issued)
	}
	return g.value, g.life, nil
}
