package upstreamauth

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/mint"
	"gatehouse.dev/gatehouse/internal/policy"
)

// ownClaims are those that the gateway alone writes (RFC 7519, section 4.1).
var ownClaims = [...]string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "cnf"}

// source is a thing that is known of a caller.
type source struct {
	what string // consumer, subject, method, credential, groups, scopes, labels or claims
	name string // of the label or claim
}

func newSource(text string) (source, *policy.Fault) {
	what, name, named := strings.Cut(text, ".")
	switch what {
	case "consumer", "subject", "method", "credential", "groups", "scopes":
		if named {
			return source{}, &policy.Fault{Text: fmt.Sprintf("%q: %s has no parts", text, what), Hint: "write " + what}
		}
	case "labels", "claims":
		if name == "" {
			return source{}, &policy.Fault{Text: fmt.Sprintf("%q names no part of the %s", text, what), Hint: "write " + what + ".NAME"}
		}
	default:
		return source{}, &policy.Fault{Text: fmt.Sprintf("%q is not known of callers", text), Hint: "write consumer, subject, method, credential, groups, scopes, labels.NAME or claims.NAME"}
	}
	return source{what, name}, nil
}

// of returns what is known, nil for nothing.
func (s source) of(who *exchange.Who) any {
	text := func(v string) any {
		if v == "" {
			return nil
		}
		return v
	}
	list := func(v []string) any {
		if len(v) == 0 {
			return nil
		}
		return v
	}
	switch s.what {
	case "consumer":
		return text(who.Consumer)
	case "subject":
		return text(who.Subject)
	case "method":
		return text(who.Method)
	case "credential":
		return text(who.Credential)
	case "groups":
		return list(who.Groups)
	case "scopes":
		return text(strings.Join(who.Scopes, " "))
	case "labels":
		return text(who.Labels[s.name])
	}
	return identify.Claim(who.Claims, s.name)
}

// claim is a claim about the caller.
type claim struct {
	name   string
	source source
}

func (c *JWT) compile(env *policy.Env) (policy.Policy, error) {
	m := &minter{config: c, ttl: int64(c.TTL.D() / time.Second)}
	signers, faults := mint.Signers(c.Keys)
	for _, err := range faults {
		var f *policy.Fault
		if errors.As(err, &f) {
			f.Field = "keys" + f.Field
		}
	}
	fault := func(field string, f *policy.Fault) {
		if f != nil {
			f.Field = field
			faults = append(faults, f)
		}
	}
	var f *policy.Fault
	m.place, f = newPlace(c.Header)
	fault("header", f)
	m.subject, f = newSource(c.Subject)
	if f == nil && (m.subject.what == "groups" || m.subject.what == "scopes" || m.subject.what == "method") {
		f = &policy.Fault{Text: fmt.Sprintf("%q names nobody", c.Subject), Hint: "write consumer, subject, credential, labels.NAME or claims.NAME"}
	}
	fault("subject", f)
	if c.Issuer == "" {
		fault("issuer", &policy.Fault{Text: "the issuer is empty"})
	}
	if len(c.Audience) == 0 || slices.Contains(c.Audience, "") {
		fault("audience", &policy.Fault{Text: "the audience is empty: the token would be for anybody"})
	}
	if c.TTL.D()%time.Second != 0 {
		fault("ttl", &policy.Fault{Text: "a token is valid for whole seconds"})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Set)) {
		fault("set"+key(name), checkClaim(name))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
		s, f := newSource(c.Claims[name])
		if _, twice := c.Set[name]; twice && f == nil {
			f = &policy.Fault{Text: fmt.Sprintf("%q is in set too", name), Hint: "remove one of the two"}
		}
		if f == nil {
			f = checkClaim(name)
		}
		fault("claims"+key(name), f)
		m.claims = append(m.claims, claim{name, s})
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	m.signer = signers[0]
	m.cache = env.Keep("jwt "+identify.Fingerprint(c, mint.Secrets(c.Keys)), func() any {
		return identify.NewTokens[token](c.Cache)
	}).(*identify.Tokens[token])
	return m, nil
}

// key writes the last step of a path.
func key(name string) string {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return "[" + strconv.Quote(name) + "]"
	}
	return "." + name
}

func checkClaim(name string) *policy.Fault {
	if name == "" || slices.Contains(ownClaims[:], name) {
		return &policy.Fault{Text: fmt.Sprintf("the claim %q is the gateway's to write", name), Hint: "choose another name"}
	}
	return nil
}

// minter gives requests tokens that the gateway signs.
type minter struct {
	config  *JWT
	signer  *jose.Signer
	place   place
	subject source
	claims  []claim
	ttl     int64 // seconds
	cache   *identify.Tokens[token]
}

var _ policy.OnRequest = (*minter)(nil)

var errNobody = errors.New("nothing is known of the caller that could be the subject of a token")

func (m *minter) Request(x *exchange.Exchange) policy.Verdict {
	value, p := m.value(&x.Who)
	if p != nil {
		x.Fail(p)
		return policy.Stop
	}
	m.place.put(&x.Request.Header, value)
	return policy.Next
}

// Conceal implements policy.Conceals.
func (m *minter) Conceal(x *exchange.Exchange) { m.place.Conceal(x) }

func (m *minter) value(who *exchange.Who) (string, *exchange.Problem) {
	subject, _ := m.subject.of(who).(string)
	if subject == "" {
		if subject = m.config.Anonymous; subject == "" {
			return "", refused.With(errNobody)
		}
	}
	about, kept := m.about(who), subject
	if about != nil {
		// Equal claims have equal texts, since names come in order; and where
		// an object ends is clear, so that no subject passes for claims.
		text, err := json.Marshal(about)
		if err != nil {
			return "", unavailable.With(fmt.Errorf("writing the claims: %w", err))
		}
		kept = string(text) + subject
	}
	now := time.Now()
	if !m.config.Once {
		if t := m.cache.Get(kept, now.Unix()); t != nil && now.Before(t.until) {
			return t.value, nil
		}
	}
	text, err := m.sign(subject, about, now.Unix())
	if err != nil {
		return "", unavailable.With(fmt.Errorf("signing a token: %w", err))
	}
	value := m.place.scheme + text
	if len(value) > longest {
		return "", refused.With(fmt.Errorf("the token about the caller has %d bytes, and at most %d are sent", len(value), longest))
	}
	if !m.config.Once {
		// Half of its life is left for the way, and for clocks that differ.
		m.cache.Put(kept, &token{value: value, until: now.Add(m.config.TTL.D() / 2)}, now.Unix(), now.Unix()+m.ttl/2)
	}
	return value, nil
}

// about returns the further claims about a caller, nil where none are asked for.
func (m *minter) about(who *exchange.Who) map[string]any {
	if len(m.claims) == 0 {
		return nil
	}
	out := make(map[string]any, len(m.claims))
	for i := range m.claims {
		if v := m.claims[i].source.of(who); v != nil {
			out[m.claims[i].name] = v
		}
	}
	return out
}

func (m *minter) sign(subject string, about map[string]any, now int64) (string, error) {
	claims := make(map[string]any, len(about)+len(m.config.Set)+7)
	for name, v := range m.config.Set {
		claims[name] = v
	}
	maps.Copy(claims, about)
	claims["iss"], claims["sub"], claims["jti"] = m.config.Issuer, subject, rand.Text()
	claims["iat"], claims["nbf"], claims["exp"] = now, now, now+m.ttl
	if claims["aud"] = []string(m.config.Audience); len(m.config.Audience) == 1 {
		claims["aud"] = m.config.Audience[0]
	}
	return m.signer.Sign(map[string]any{"typ": m.config.Type}, claims)
}
