package h2

import "gatehouse.dev/gatehouse/internal/exchange"

// Character classes of HTTP/2 alone; those of all HTTP are exchange's.
const (
	inValue = 1 << iota // what a field value may hold: RFC 9113, section 8.2.1, without other controls but tab
	inName              // what a field name may hold: a token in lower case
)

var class = func() (t [256]uint8) {
	for c := range t {
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[c] |= inValue
		}
		if exchange.InToken(byte(c)) && (c < 'A' || c > 'Z') {
			t[c] |= inName
		}
	}
	return t
}()

// lowerToken maps the bytes of a token to lower case, and others to 0.
var lowerToken = func() (t [256]byte) {
	for c := range t {
		switch {
		case 'A' <= c && c <= 'Z':
			t[c] = byte(c) | 0x20
		case exchange.InToken(byte(c)):
			t[c] = byte(c)
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

func all(s string, want uint8) bool { return s != "" && span(s, want) == len(s) }

func isTarget(s string) bool { return s != "" && exchange.SpanTarget(s) == len(s) }
