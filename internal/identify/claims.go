package identify

import (
	"fmt"
	"slices"
	"strings"
)

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
