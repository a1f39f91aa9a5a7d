package limit

import (
	"strconv"
	"strings"
	"time"
)

// This file is how clients are told of limits: the fields RateLimit-Policy and
// RateLimit (draft-ietf-httpapi-ratelimit-headers, sections 3 and 4). Both are
// lists of structured fields (RFC 9651).

// IsName reports whether a limit may be called so in the fields: by at most 64
// printable ASCII characters that need no escapes.
func IsName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' })
}

// AppendPolicy appends the element of RateLimit-Policy that says how much there
// is in which time.
func AppendPolicy(b []byte, name string, count int64, per time.Duration) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = strconv.AppendQuote(b, name)
	b = strconv.AppendInt(append(b, ";q="...), count, 10)
	return strconv.AppendInt(append(b, ";w="...), int64(per/time.Second), 10)
}

// AppendState appends the element of RateLimit that says what remains, and in
// how many seconds all of it is back. Less than nothing is shown as nothing.
func AppendState(b []byte, name string, remaining, seconds int64) []byte {
	b = strconv.AppendQuote(b, name)
	b = strconv.AppendInt(append(b, ";r="...), max(remaining, 0), 10)
	return strconv.AppendInt(append(b, ";t="...), max(seconds, 0), 10)
}

// Seconds rounds a time up to whole seconds, as fields tell it.
func Seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
