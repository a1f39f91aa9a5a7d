package exchange

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// This file is the grammar that all versions of HTTP share: what one protocol
// takes, another writes, so both have to mean the same by it.

// Character classes.
const (
	inToken  = 1 << iota // tchar, RFC 9110, section 5.6.2
	inTarget             // what a request target may hold: visible ASCII but #
	inHost               // what a host name may hold: letters, digits, hyphen, underscore, dot
	inLower              // a token without capitals, as names of fields are in HTTP/2: RFC 9113, section 8.2.1
	inValue              // what the value of a field may hold: RFC 9110, section 5.5, no controls but tab
)

var class = func() (t [256]uint8) {
	for c := '!'; c <= '~'; c++ {
		if c != '#' {
			t[c] |= inTarget
		}
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
			t[c] |= inToken | inHost
		case strings.ContainsRune("!#$%&'*+^`|~", c):
			t[c] |= inToken
		}
	}
	for c := range t {
		if t[c]&inToken != 0 && (c < 'A' || c > 'Z') {
			t[c] |= inLower
		}
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[c] |= inValue
		}
	}
	return t
}()

// span returns how many bytes at the start of s are of a class.
func span(s string, want uint8) int {
	for i := 0; i < len(s); i++ {
		if class[s[i]]&want == 0 {
			return i
		}
	}
	return len(s)
}

// InToken reports whether a byte may stand in a token, such as a method or the
// name of a field (RFC 9110, section 5.6.2).
func InToken(c byte) bool { return class[c]&inToken != 0 }

// IsToken reports whether s is a token.
func IsToken(s string) bool { return s != "" && span(s, inToken) == len(s) }

// IsLowerToken reports whether s is a token without capitals.
func IsLowerToken(s string) bool { return s != "" && span(s, inLower) == len(s) }

// InValue reports whether a byte may stand in the value of a field.
func InValue(c byte) bool { return class[c]&inValue != 0 }

// IsValue reports whether s holds nothing but what the value of a field may
// hold. White space around it is not looked at.
func IsValue(s string) bool { return span(s, inValue) == len(s) }

// SpanToken returns how many bytes at the start of s may stand in a token.
func SpanToken(s string) int { return span(s, inToken) }

// IsTarget reports whether s may be a request target or a part of one.
func IsTarget(s string) bool { return s != "" && span(s, inTarget) == len(s) }

// SpanTarget returns how many bytes at the start of s may stand in a request
// target: visible ASCII but "#".
func SpanTarget(s string) int { return span(s, inTarget) }

// AppendTarget appends a part of a request target. Bytes that no target may
// hold are percent-encoded.
func AppendTarget(b []byte, s string) []byte {
	n := span(s, inTarget)
	b = append(b, s[:n]...)
	for ; n < len(s); n++ {
		if c := s[n]; class[c]&inTarget != 0 {
			b = append(b, c)
		} else {
			b = append(b, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
		}
	}
	return b
}

// IsDigit reports whether c is a decimal digit.
func IsDigit(c byte) bool { return '0' <= c && c <= '9' }

// SplitHost checks an authority, which is a host with an optional port and
// nothing else (RFC 3986, section 3.2; no userinfo, RFC 9113, section 8.3.1),
// and returns its host in lower case, without the port or a final dot. An IPv6
// address keeps its brackets and gets its one spelling (RFC 5952). Of names it takes what is in use: letters,
// digits, hyphens, underscores and dots between labels that are not empty.
func SplitHost(authority string) (host string, ok bool) {
	var port string
	if strings.HasPrefix(authority, "[") {
		end := strings.IndexByte(authority, ']')
		if end < 0 {
			return "", false
		}
		a, err := netip.ParseAddr(authority[1:end])
		if err != nil || !a.Is6() || a.Zone() != "" {
			return "", false
		}
		host, port = authority[:end+1], authority[end+1:]
		var b [48]byte
		if one := a.AppendTo(b[:0]); string(one) != authority[1:end] {
			host = "[" + string(one) + "]"
		}
	} else {
		n := span(authority, inHost)
		host, port = strings.TrimSuffix(authority[:n], "."), authority[n:]
		if host == "" || len(host) > 253 || host[0] == '.' || host[len(host)-1] == '.' || strings.Contains(host, "..") {
			return "", false
		}
	}
	return lowered(host), port == "" || isPort(port)
}

// isPort takes a colon and a port number.
func isPort(s string) bool {
	if s[0] != ':' || len(s) < 2 || len(s) > 6 {
		return false
	}
	n := 0
	for i := 1; i < len(s); i++ {
		if !IsDigit(s[i]) {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

// lowered is strings.ToLower for ASCII.
func lowered(s string) string {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}

// ParseLength reads a Content-Length: digits, nothing else, and no more than
// an int64 holds whatever they are.
func ParseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		if !IsDigit(s[i]) {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// DateText keeps the value of a Date field for about a second. The zero
// DateText is ready for use, by any number of goroutines.
type DateText struct{ last atomic.Pointer[date] }

type date struct {
	at   time.Duration
	text string
}

// At returns the value of a Date field (RFC 9110, section 5.6.7) for a time of
// the connections' clock.
func (t *DateText) At(now time.Duration) string {
	d := t.last.Load()
	if d == nil || now >= d.at+time.Second || now < d.at {
		// The wall clock is read each time, for it may have been set.
		d = &date{now, time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")}
		t.last.Store(d)
	}
	return d.text
}
