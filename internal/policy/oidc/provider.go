package oidc

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy"
)

// provider is what is known of the OpenID provider, kept fresh.
type provider struct {
	*jose.Source
	client *fetch.Client
	says   atomic.Pointer[metadata]
}

// metadata is what a provider says of itself (OpenID Connect Discovery 1.0).
type metadata struct {
	authorize, token, end, info string
	iss                         bool // it names itself in answers to authorization requests (RFC 9207)
	basic                       bool // it takes the client's secret as a password
}

func newProvider(env *policy.Env, c *Config, client *fetch.Client) *provider {
	p := &provider{client: client}
	p.Source = jose.NewSource(env.Log.With("issuer", c.Issuer), jose.Timing{Refresh: c.Refresh.D(), Cooldown: 30 * time.Second, Patience: 3 * time.Second, Still: env.Still},
		func(ctx context.Context) (*jose.Set, error) { return p.load(ctx, c) })
	return p
}

// Retire ends the loading.
func (p *provider) Retire() {
	p.Source.Retire()
	p.client.Retire()
}

// load asks the provider about itself and for its keys.
func (p *provider) load(ctx context.Context, c *Config) (*jose.Set, error) {
	data, err := p.client.Get(ctx, strings.TrimSuffix(c.Issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	m, err := jose.Object(data)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	if m["issuer"] != c.Issuer {
		return nil, fmt.Errorf("discovery: it is of issuer %q", m["issuer"])
	}
	says := &metadata{basic: true}
	var keys string
	for name, into := range map[string]*string{
		"authorization_endpoint": &says.authorize, "token_endpoint": &says.token, "jwks_uri": &keys, "end_session_endpoint": &says.end,
		"userinfo_endpoint": &says.info,
	} {
		*into, _ = m[name].(string)
		if *into == "" && (into == &says.end || into == &says.info) {
			continue
		}
		if f := c.HTTP.Check(*into); f != nil {
			return nil, fmt.Errorf("discovery: %s: %w", name, f)
		}
	}
	says.iss, _ = m["authorization_response_iss_parameter_supported"].(bool)
	if ways := identify.Texts(m["token_endpoint_auth_methods_supported"]); ways != nil {
		says.basic = slices.Contains(ways, "client_secret_basic")
	}
	if data, err = p.client.Get(ctx, keys); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	set, err := jose.ParseSet(data)
	if err == nil {
		p.says.Store(says)
	}
	return set, err
}

// metadata returns what the provider says of itself, once it is known.
func (p *provider) metadata() (*metadata, error) {
	if p.says.Load() == nil {
		// Keys are loaded with it: to ask for any waits for the first load.
		if _, err := p.Find("", ""); err != nil {
			return nil, err
		}
	}
	if m := p.says.Load(); m != nil {
		return m, nil
	}
	return nil, jose.ErrUnavailable
}

// tokens is what the token endpoint answers (RFC 6749, section 5.1).
type tokens struct {
	access, renew, id string
	expires           int64 // seconds from now, 0 when it does not say
}

// refused says that the provider does not take a code or refresh token.
type refused struct{ code string }

func (r *refused) Error() string { return fmt.Sprintf("the provider refuses: %q", r.code) }

// exchange asks the token endpoint.
func (p *provider) exchange(c *Config, form url.Values) (*tokens, error) {
	m, err := p.metadata()
	if err != nil {
		return nil, err
	}
	h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"application/json"}}
	switch secret := c.ClientSecret.Reveal(); {
	case secret == "":
		form.Set("client_id", c.ClientID)
	case m.basic: // RFC 6749, section 2.3.1
		user := url.QueryEscape(c.ClientID) + ":" + url.QueryEscape(secret)
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user)))
	default:
		form.Set("client_id", c.ClientID)
		form.Set("client_secret", secret)
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.HTTP.Timeout.D())
	defer cancel()
	a, err := p.client.Do(ctx, http.MethodPost, m.token, h, []byte(form.Encode()))
	if err != nil {
		return nil, err
	}
	body, err := jose.Object(a.Body)
	switch {
	case a.Status == http.StatusBadRequest && err == nil:
		code, _ := body["error"].(string)
		return nil, &refused{code}
	case a.Status != http.StatusOK:
		return nil, fmt.Errorf("the answer has status %d", a.Status)
	case err != nil:
		return nil, err
	}
	t := new(tokens)
	t.access, _ = body["access_token"].(string)
	t.renew, _ = body["refresh_token"].(string)
	t.id, _ = body["id_token"].(string)
	t.expires, _ = body["expires_in"].(int64)
	if kind, _ := body["token_type"].(string); t.access == "" || !strings.EqualFold(kind, "Bearer") {
		return nil, errors.New("the answer has no bearer token")
	}
	return t, nil
}

// belongs checks that an ID token came with an access token, if it says so (OpenID
// Connect Core 1.0, section 3.1.3.8): half of the hash that its own signature is
// made with, of which that of Ed25519 is SHA-512.
func belongs(id *jose.Token, access string) error {
	claim, there := id.Claims["at_hash"]
	if !there {
		return nil
	}
	var sum []byte
	switch {
	case strings.HasSuffix(id.Alg, "256"):
		s := sha256.Sum256([]byte(access))
		sum = s[:]
	case strings.HasSuffix(id.Alg, "384"):
		s := sha512.Sum384([]byte(access))
		sum = s[:]
	default:
		s := sha512.Sum512([]byte(access))
		sum = s[:]
	}
	if claim != base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2]) {
		return errors.New("the ID token belongs to another access token")
	}
	return nil
}

// info asks what the provider knows of the owner of an access token (OpenID
// Connect Core 1.0, section 5.3). What it says has to be of that person; for
// the rest it adds to what is known, and changes nothing.
func (m *method) info(claims map[string]any, access string) error {
	says, err := m.provider.metadata()
	if err != nil || says.info == "" || !m.config.UserInfo {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.config.HTTP.Timeout.D())
	defer cancel()
	a, err := m.provider.client.Do(ctx, http.MethodGet, says.info, http.Header{"Authorization": {"Bearer " + access}, "Accept": {"application/json"}}, nil)
	switch {
	case err != nil:
		return fmt.Errorf("user info: %w", err)
	case a.Status != http.StatusOK:
		return fmt.Errorf("user info: the answer has status %d", a.Status)
	}
	more, err := jose.Object(a.Body)
	switch {
	case err != nil:
		return fmt.Errorf("user info: %w", err)
	case more["sub"] != claims["sub"]:
		return fmt.Errorf("%w: user info is of %q", errIDToken, more["sub"])
	}
	for name, v := range more {
		if _, known := claims[name]; !known {
			claims[name] = v
		}
	}
	return nil
}

// verify checks a token that the provider signed for us: an ID token (OpenID
// Connect Core 1.0, section 3.1.3.7), or one that tells of an ended session.
func (m *method) verify(text string, now int64) (*jose.Token, error) {
	c := m.config
	t, err := jose.Parse(text)
	if err != nil {
		return nil, err
	}
	keys, err := m.provider.Find(t.Kid, t.Alg)
	if err != nil {
		return nil, err
	}
	if _, err := t.Verify(keys); err != nil {
		return nil, err
	}
	leeway := int64(c.Leeway.D() / time.Second)
	exp, hasExp := t.Claims["exp"].(int64)
	iat, hasIat := t.Claims["iat"].(int64)
	aud := identify.Texts(t.Claims["aud"])
	azp, hasAzp := t.Claims["azp"]
	switch {
	case t.Text("iss") != c.Issuer:
		return nil, fmt.Errorf("the token is of issuer %q", t.Claims["iss"])
	case !slices.Contains(aud, c.ClientID):
		return nil, fmt.Errorf("the token is for %q", t.Claims["aud"])
	case len(aud) > 1 && !hasAzp || hasAzp && azp != c.ClientID:
		return nil, fmt.Errorf("the token was made for %q", azp)
	case hasExp && now >= exp+leeway:
		return nil, errors.New("the token has expired")
	case !hasIat || iat > now+leeway:
		return nil, errors.New("the token does not say when it was issued, or that will be")
	}
	return t, nil
}
