package introspect

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/jose"
)

type method struct {
	place     identify.Place
	config    *Config
	audience  []string // nil: for anybody
	bound     *identify.Binding
	asker     *asker
	consumers identify.Subjects
}

// token is what the issuer said of one. Nothing writes to it.
type token struct {
	identify.Claims

	wrong error // why it is not good, nil when it is
}

// longest is the longest token in bytes that is asked about.
const longest = 8 << 10

func (m *method) Prove(x *exchange.Exchange) error {
	text, scheme, err := m.bound.Find(&m.place, &x.Request, longest)
	switch {
	case err != nil:
		return identify.Refuse(err)
	case text == "":
		return identify.ErrNone
	}
	now := time.Now().Unix()
	t, err := m.asker.find(text, now, func() (*token, int64, error) { return m.ask(text, now) })
	switch {
	case err != nil:
		return identify.Unavailable(fmt.Errorf("introspection: %w", err))
	case t.wrong != nil:
		return identify.Refuse(t.wrong)
	}
	if err := m.bound.Check(x, scheme, text, &t.Bound); err != nil {
		return identify.Refuse(err)
	}
	x.Who.Token = text
	return t.Identify(&x.Who, m.consumers, m.config.ConsumersOnly)
}

// ask asks the issuer. An error means that it could not be found out; that a
// token is no good is in what is returned.
func (m *method) ask(text string, now int64) (t *token, until int64, err error) {
	c := m.config
	// The name and secret are encoded as in a form before they become a user
	// name and a password (RFC 6749, section 2.3.1).
	user := url.QueryEscape(c.ClientID) + ":" + url.QueryEscape(c.ClientSecret.Reveal())
	ctx, cancel := context.WithTimeout(context.Background(), c.HTTP.Timeout.D())
	defer cancel()
	a, err := m.asker.client.Do(ctx, http.MethodPost, c.URL, http.Header{
		"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(user))},
		"Content-Type":  {"application/x-www-form-urlencoded"},
		"Accept":        {"application/json"},
	}, []byte(url.Values{"token": {text}, "token_type_hint": {"access_token"}}.Encode()))
	if err != nil {
		return nil, 0, err
	}
	if a.Status != http.StatusOK {
		return nil, 0, fmt.Errorf("the answer has status %d", a.Status)
	}
	claims, err := jose.Object(a.Body)
	if err != nil {
		return nil, 0, err
	}
	active, ok := claims["active"].(bool)
	if !ok {
		return nil, 0, errors.New(`the answer does not say whether the token is "active"`)
	}
	t, exp := m.read(active, claims, now)
	if t.wrong != nil {
		return t, now + int64(c.RememberWrong.D()/time.Second), nil
	}
	until = now + int64(c.Remember.D()/time.Second)
	if exp != 0 {
		until = min(until, exp)
	}
	return t, until, nil
}

// read checks what the issuer said. It has checked the token, but need not
// have looked at whom it is for.
func (m *method) read(active bool, claims map[string]any, now int64) (t *token, exp int64) {
	no := func(format string, args ...any) (*token, int64) { return &token{wrong: fmt.Errorf(format, args...)}, 0 }
	if !active {
		return no("the issuer says that the token is not active")
	}
	var times [3]int64
	for i, name := range []string{"exp", "nbf", "iat"} {
		var err error
		if times[i], err = identify.Moment(claims, name); err != nil {
			return &token{wrong: err}, 0
		}
	}
	exp, nbf := times[0], times[1]
	switch {
	case exp != 0 && now >= exp:
		return no("the token expired %d s ago", now-exp)
	case now < nbf:
		return no("the token is not valid before %d s have passed", nbf-now)
	}
	issuer := m.config.Issuer
	if v, said := claims["iss"]; said {
		name, ok := v.(string)
		if !ok || issuer != "" && name != issuer {
			return no("the token is of issuer %q", v)
		}
		issuer = name
	}
	if !identify.Meant(claims["aud"], m.audience) {
		return no("the token is for %q", claims["aud"])
	}
	c, err := identify.ReadClaims(issuer, claims, m.config.SubjectClaim, m.config.GroupsClaim)
	if err != nil {
		return &token{wrong: err}, 0
	}
	return &token{Claims: c}, exp
}

// Reaches says that a token makes the method ask its issuer.
func (m *method) Reaches(x *exchange.Exchange) string {
	if text, _, err := m.bound.Find(&m.place, &x.Request, longest); err != nil || text == "" {
		return ""
	}
	return "asks " + m.config.URL + " about the token"
}

func (m *method) Place() string { return m.place.String() }

func (m *method) Hide(x *exchange.Exchange, proved bool) {
	if !m.config.Forward || !proved {
		m.place.Remove(&x.Request)
		m.bound.Remove(&x.Request)
	}
}

// Challenge follows RFC 6750, section 3.
func (m *method) Challenge(wrong bool) string { return m.bound.Challenge(m.config.Realm, wrong) }
