package identify

import "strings"

// Scopes reads "scope" of a token (RFC 8693, section 4.2), or "scp" which
// others write.
func Scopes(claims map[string]any) []string {
	if s, ok := claims["scope"].(string); ok {
		return strings.Fields(s)
	}
	if s, ok := claims["scp"].(string); ok {
		return strings.Fields(s)
	}
	return Texts(claims["scp"])
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

// Meant tells whether "aud" of a token, which may be a list (RFC 7519, section
// 4.1.3), names one of those that it may be for. No list means anybody.
func Meant(aud any, wanted []string) bool {
	if wanted == nil {
		return true
	}
	for _, have := range Texts(aud) {
		for _, want := range wanted {
			if have == want {
				return true
			}
		}
	}
	return false
}
