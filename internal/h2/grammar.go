package h2

import "gatehouse.dev/gatehouse/internal/exchange"

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
