package jwt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy"
)

type method struct {
	place     identify.Place
	config    *Config
	issuers   map[string]*issuer
	types     []string // in lower case
	leeway    int64    // seconds
	bound     *identify.Binding
	cache     *identify.Tokens[verified] // nil: nothing is remembered
	consumers identify.Subjects
}

func typesOf(list policy.StringList) []string {
	types := make([]string, len(list))
	for i, t := range list {
		types[i] = strings.TrimPrefix(strings.ToLower(t), "application/")
	}
	return types
}

// verified is a token that has been verified, and what it says. Nothing writes
// to it.
type verified struct {
	identify.Claims

	until int64     // seconds since 1970
	key   *jose.Key // what the token says is void once the key is gone
}

// cacheKey names the cache of all uses with the same settings.
func (m *method) cacheKey() string {
	c := m.config
	secrets := []string{}
	list := c.Keys
	for _, i := range c.Issuers {
		if i != nil {
			list = slices.Concat(list, i.Keys)
		}
	}
	for _, k := range list {
		if k != nil {
			secrets = append(secrets, k.secrets())
		}
	}
	return "tokens " + identify.Fingerprint(c, secrets)
}

func (m *method) Prove(x *exchange.Exchange) error {
	text, scheme, err := m.bound.Find(&m.place, &x.Request, jose.Longest)
	switch {
	case err != nil:
		return identify.Refuse(err)
	case text == "":
		return identify.ErrNone
	}
	now := time.Now().Unix()
	v := m.cache.Get(text, now)
	if v == nil || v.key.Gone() {
		if v, err = m.verify(text, now); err != nil {
			return err
		}
		m.cache.Put(text, v, now, v.until)
	}
	if err := m.bound.Check(x, scheme, text, &v.Bound); err != nil {
		return identify.Refuse(err)
	}
	x.Who.Token = text
	return v.Identify(&x.Who, m.consumers, m.config.ConsumersOnly)
}

// Reaches says whom a token makes the method ask: the issuer, for keys that are
// not given beforehand.
func (m *method) Reaches(x *exchange.Exchange) string {
	text, _, err := m.bound.Find(&m.place, &x.Request, jose.Longest)
	if err != nil || text == "" {
		return ""
	}
	t, err := jose.Parse(text)
	if err != nil || t.Typ != "" && !slices.Contains(m.types, t.Typ) {
		return ""
	}
	i := m.issuers[t.Text("iss")]
	if i == nil || !i.takes(t.Alg) || !i.loads(t) {
		return ""
	}
	if _, err := t.Verify(i.known(t)); err == nil {
		return ""
	}
	return "verifies the token by the keys of " + i.at
}

// verify reads a token, checks its signature and all that it says.
func (m *method) verify(text string, now int64) (*verified, error) {
	t, err := jose.Parse(text)
	if err != nil {
		return nil, identify.Refuse(err)
	}
	if t.Typ != "" && !slices.Contains(m.types, t.Typ) {
		return nil, identify.Refuse(fmt.Errorf("tokens of type %q are for another purpose", t.Typ))
	}
	i := m.issuers[t.Text("iss")]
	if i == nil {
		return nil, identify.Refuse(fmt.Errorf("issuer %q is not known", t.Claims["iss"]))
	}
	key, err := i.verify(t)
	switch {
	case errors.Is(err, jose.ErrUnavailable):
		return nil, identify.Unavailable(fmt.Errorf("issuer %q: %w", i.name, err))
	case errors.Is(err, jose.ErrNoKey):
		return nil, identify.Refuse(fmt.Errorf("issuer %q has no key %q for %s", i.name, t.Kid, t.Alg))
	case err != nil:
		return nil, identify.Refuse(err)
	}
	v, err := m.claims(t, i, now)
	if err != nil {
		// Whoever has a token that was signed is not guessing.
		return nil, &identify.Refusal{Cause: err, Uncounted: true}
	}
	v.key = key
	return v, nil
}

// claims checks what a token says of itself (RFC 7519, section 4.1).
func (m *method) claims(t *jose.Token, i *issuer, now int64) (*verified, error) {
	exp, err := identify.Moment(t.Claims, "exp")
	if err != nil {
		return nil, err
	}
	nbf, err := identify.Moment(t.Claims, "nbf")
	if err != nil {
		return nil, err
	}
	iat, err := identify.Moment(t.Claims, "iat")
	switch {
	case err != nil:
		return nil, err
	case exp == 0 && !m.config.Endless:
		return nil, errors.New(`the token has no "exp"`)
	case exp != 0 && now >= exp+m.leeway:
		return nil, fmt.Errorf("the token expired %d s ago", now-exp)
	case nbf > now+m.leeway:
		return nil, fmt.Errorf("the token is not valid before %d s have passed", nbf-now)
	case iat > now+m.leeway:
		return nil, fmt.Errorf("the token is issued %d s in the future", iat-now)
	}
	if !identify.Meant(t.Claims["aud"], i.audience) {
		return nil, fmt.Errorf("the token is for %q", t.Claims["aud"])
	}
	v := new(verified)
	if v.Claims, err = identify.ReadClaims(i.name, t.Claims, m.config.SubjectClaim, m.config.GroupsClaim); err != nil {
		return nil, err
	}
	// No further than a day: an endless token is looked at again.
	v.until = now + 86400
	if exp != 0 {
		v.until = min(v.until, exp+m.leeway)
	}
	return v, nil
}

func (m *method) Place() string { return m.place.String() }

func (m *method) Hide(x *exchange.Exchange, proved bool) {
	if !m.config.Forward || !proved {
		m.place.Remove(&x.Request)
		m.bound.Remove(&x.Request)
	}
}

// Challenge follows RFC 6750, section 3: a request without a token is told no
// error.
func (m *method) Challenge(wrong bool) string {
	return m.bound.Challenge(m.config.Realm, wrong)
}
