package router

import (
	"bytes"
	"errors"
	"strings"
)

// The reasons for which a path is refused.
var (
	errNoSlash   = errors.New("path does not begin with a slash")
	errControl   = errors.New("path holds a control character")
	errBackslash = errors.New("path holds a backslash")
	errByte      = errors.New("path holds a byte that must be percent-encoded")
	errEncoding  = errors.New("path holds a percent sign without two hexadecimal digits")
	errDisguised = errors.New("path holds a dot segment disguised by a semicolon or an encoded slash")
	errJoined    = errors.New("path changes its meaning when its parts are put together")
)

// How a byte of a path is treated.
const (
	asIs    = iota // unreserved, sub-delims, colon and at (RFC 3986, section 3.3)
	slash          // ends a segment
	percent        // begins a percent-encoding
	encoded        // has no place in a URI, but browsers send it; it is percent-encoded
	refused
)

const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"

var class = func() (t [256]uint8) {
	for i := range t {
		t[i] = refused
	}
	for _, c := range []byte(unreserved + "!$&'()*+,;=:@") {
		t[c] = asIs
	}
	for _, c := range []byte("\"<>[]^`{|}") {
		t[c] = encoded
	}
	t['/'], t['%'] = slash, percent
	return t
}()

// isUnreserved tells the characters that mean the same encoded or not (RFC
// 3986, section 2.3).
func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// Normalize returns the one spelling of a path that is matched and sent on. raw
// is the path of a request target, without the query.
//
//   - Percent-encodings of unreserved characters are decoded, once; all others
//     stay, with digits in upper case. %2F is data and never a slash (RFC 3986,
//     sections 2.2 and 6.2.2).
//   - Dot segments are removed as by RFC 3986, section 5.2.4, after that
//     decoding, so that %2e%2e is one; the root is never left.
//   - Duplicate slashes and a final slash are kept.
//   - The characters "<>[]^`{|} are percent-encoded: URIs do not have them, but
//     browsers send some of them as they are.
//   - Path parameters, as in /a;v=1/b, are data like any other.
//
// It refuses what two readers could take differently: a percent sign without
// two hexadecimal digits; control characters and backslashes, plain or encoded;
// a space, ?, # or byte above 0x7F that is not encoded; and dot segments that
// some servers would see although they are none, as in /..;/a and /a/..%2Fb.
//
// A path that is normal already is returned as it is, without an allocation.
func Normalize(raw string) (string, error) {
	if raw == "" || raw[0] != '/' {
		return "", errNoSlash
	}
	for i := 0; i < len(raw); i++ {
		switch class[raw[i]] {
		case asIs:
		case slash:
			if i+1 < len(raw) && raw[i+1] == '.' && dotted(raw[i+1:]) {
				return rewrite(raw)
			}
		case percent:
			if !stays(raw, i) {
				return rewrite(raw)
			}
			i += 2
		default:
			return rewrite(raw)
		}
	}
	return raw, nil
}

// dotted reports whether s begins with something that may be a dot segment,
// disguised or not. It may say yes too often, never too seldom.
func dotted(s string) bool {
	n := 1
	if len(s) > 1 && s[1] == '.' {
		n = 2
	}
	return len(s) == n || s[n] == '/' || s[n] == ';' || s[n] == '%'
}

// stays reports whether the percent-encoding at s[i] is one that is kept and
// written as it must be. An encoded slash beside a dot needs a closer look.
func stays(s string, i int) bool {
	if i+2 >= len(s) || !upperHex(s[i+1]) || !upperHex(s[i+2]) {
		return false
	}
	c := unhex(s[i+1])<<4 | unhex(s[i+2])
	if c == '/' && (s[i-1] == '.' || i+3 < len(s) && s[i+3] == '.') {
		return false
	}
	return c >= ' ' && c != 0x7f && c != '\\' && !isUnreserved(c)
}

func upperHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

func isHex(c byte) bool { return upperHex(c) || 'a' <= c && c <= 'f' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&7 + 9
}

const hexDigits = "0123456789ABCDEF"

func appendEncoded(b []byte, c byte) []byte {
	return append(b, '%', hexDigits[c>>4], hexDigits[c&15])
}

// rewrite is Normalize for paths that may need a change.
func rewrite(raw string) (string, error) {
	buf := make([]byte, 0, len(raw)+len(raw)/4)
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch class[c] {
		case asIs, slash:
			buf = append(buf, c)
			continue
		case encoded:
			buf = appendEncoded(buf, c)
			continue
		case refused:
			return "", refusal(c)
		}
		if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
			return "", errEncoding
		}
		c = unhex(raw[i+1])<<4 | unhex(raw[i+2])
		i += 2
		switch {
		case isUnreserved(c):
			buf = append(buf, c)
		case c < ' ' || c == 0x7f || c == '\\':
			return "", refusal(c)
		default:
			buf = appendEncoded(buf, c)
		}
	}
	return removeDots(buf)
}

func refusal(c byte) error {
	switch {
	case c < ' ' || c == 0x7f:
		return errControl
	case c == '\\':
		return errBackslash
	}
	return errByte
}

// removeDots removes the dot segments of a path, in place.
func removeDots(path []byte) (string, error) {
	out := path[:0]
	for rest, more := path[1:], true; more; {
		var segment []byte
		segment, rest, more = bytes.Cut(rest, []byte{'/'})
		dots, err := countDots(segment)
		if err != nil {
			return "", err
		}
		if dots == 0 {
			out = append(append(out, '/'), segment...) // never beyond what was read
			continue
		}
		if dots == 2 && len(out) > 0 {
			out = out[:bytes.LastIndexByte(out, '/')]
		}
		if !more {
			out = append(out, '/')
		}
	}
	if len(out) == 0 {
		return "/", nil
	}
	return string(out), nil
}

// countDots returns 1 or 2 for a dot segment and 0 for any other. It refuses
// those that would be dot segments to a server that cuts path parameters off
// before it resolves them, or that decodes %2F.
func countDots(segment []byte) (int, error) {
	if bytes.IndexByte(segment, '.') < 0 {
		return 0, nil
	}
	if n := onlyDots(segment); n > 0 {
		return n, nil
	}
	for rest, more := segment, true; more; {
		var piece []byte
		piece, rest, more = bytes.Cut(rest, []byte("%2F"))
		piece, _, _ = bytes.Cut(piece, []byte{';'})
		piece, _, _ = bytes.Cut(piece, []byte("%3B"))
		if onlyDots(piece) > 0 {
			return 0, errDisguised
		}
	}
	return 0, nil
}

func onlyDots(s []byte) int {
	switch string(s) {
	case ".":
		return 1
	case "..":
		return 2
	}
	return 0
}

// ParsePrefix checks a prefix that StripPrefix is to take off, and returns it
// normalised and without a final slash.
func ParsePrefix(raw string) (string, error) {
	if strings.ContainsAny(raw, "{}*") {
		return "", &fault{text: "prefix " + quote(raw) + " holds a pattern", hint: "a prefix is plain text, for example " + quote("/api")}
	}
	prefix, err := Normalize(raw)
	if err != nil {
		return "", &fault{text: "prefix " + quote(raw) + ": " + err.Error(), hint: spelling(raw)}
	}
	return strings.TrimSuffix(prefix, "/"), nil
}

// StripPrefix takes a prefix off a normalised path when the prefix ends where a
// segment ends; otherwise the path is returned as it is. A final slash of the
// prefix means nothing. What is left begins with a slash.
func StripPrefix(path, prefix string) string {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(prefix, "/"))
	switch {
	case ok && rest == "":
		return "/"
	case ok && rest[0] == '/':
		return rest
	}
	return path
}
