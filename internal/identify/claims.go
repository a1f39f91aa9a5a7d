package identify

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Claims is what a token that is good says of whom it was given to. Nothing
// writes to it.
type Claims struct {
	Bound Confirmation

	issuer, subject string
	scopes, groups  []string
	all             map[string]any
}

// ReadClaims reads the claims of a token of an issuer. The names are those of
// the claim with the subject, which has to be there, and of the one that lists
// groups, "" for none.
func ReadClaims(issuer string, all map[string]any, subject, groups string) (c Claims, err error) {
	c = Claims{issuer: issuer, all: all, scopes: Scopes(all)}
	if c.subject, _ = Claim(all, subject).(string); c.subject == "" {
		return c, fmt.Errorf("the token has no %q", subject)
	}
	if groups != "" {
		c.groups = Texts(Claim(all, groups))
	}
	c.Bound, err = ReadConfirmation(all)
	return c, err
}

// Subjects is what policies that read tokens need of the gateway, under the
// name "consumers".
type Subjects interface {
	// Subject identifies the consumer of a token's issuer and subject, and
	// tells whether there is one.
	Subject(issuer, subject string, who *exchange.Who) (known bool, err error)
}

// Identify fills in what the token says, and whose consumer it is. That is
// looked up every time: it may have changed. only says that it has to be one.
func (c *Claims) Identify(who *exchange.Who, consumers Subjects, only bool) error {
	known := false
	if consumers != nil && c.issuer != "" {
		var err error
		if known, err = consumers.Subject(c.issuer, c.subject, who); err != nil {
			return &Refusal{Cause: err, Uncounted: true}
		}
	}
	if !known && only {
		return &Refusal{Cause: fmt.Errorf("no consumer has issuer %q and subject %q", c.issuer, c.subject), Uncounted: true}
	}
	if who.Credential == "" {
		who.Credential = c.issuer
	}
	who.Subject, who.Scopes, who.Claims = c.subject, c.scopes, c.all
	switch {
	case len(who.Groups) == 0:
		who.Groups = c.groups
	case len(c.groups) > 0:
		who.Groups = slices.Concat(who.Groups, c.groups)
	}
	return nil
}

// Refuse is the refusal of a token for a cause, unless that is a problem of its
// own.
func Refuse(cause error) error {
	var p *exchange.Problem
	if errors.As(cause, &p) {
		return p
	}
	return &Refusal{Cause: cause}
}

// Moment reads a claim that is a time, in seconds since 1970, and 0 when it is
// not there (RFC 7519, section 2). Anything else that stands for a time is an
// error.
func Moment(claims map[string]any, name string) (int64, error) {
	const most = 1 << 53
	switch v := claims[name].(type) {
	case nil:
		if _, there := claims[name]; !there {
			return 0, nil
		}
	case int64:
		if v > 0 && v < most {
			return v, nil
		}
	case float64:
		if v >= 1 && v < most {
			return int64(v), nil
		}
	}
	return 0, fmt.Errorf("the token's %q is no time", name)
}

// Scopes reads "scope" of a token (RFC 8693, section 4.2), or "scp" which
// others write, also as a list. What is no name of a scope (RFC 6749, section
// 3.3) and could pass for two is left out.
func Scopes(claims map[string]any) []string {
	text, ok := claims["scope"].(string)
	if !ok {
		text, ok = claims["scp"].(string)
	}
	list := strings.Split(text, " ")
	if !ok {
		list = Texts(claims["scp"])
	}
	return slices.DeleteFunc(list, func(name string) bool {
		return name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f })
	})
}

// Texts returns the texts of a list, or the one that stands for it.
func Texts(v any) (list []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok {
				list = append(list, s)
			}
		}
	}
	return list
}

// Meant tells whether "aud" of a token, which may be a list of texts (RFC 7519,
// section 4.1.3), names one of those that it may be for. No list of those means
// anybody.
func Meant(aud any, wanted []string) bool {
	if wanted == nil {
		return true
	}
	have := Texts(aud)
	if list, ok := aud.([]any); ok && len(list) != len(have) {
		return false // there is something else in it
	}
	return slices.ContainsFunc(have, func(one string) bool { return slices.Contains(wanted, one) })
}
