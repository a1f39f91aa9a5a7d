package h2

import (
	"net/netip"
	"strings"
)

// Character classes.
const (
	inValue  = 1 << iota // what a field value may hold: RFC 9113, section 8.2.1, without other controls but tab
	inTarget             // what a path or query may hold: visible ASCII but #
	inHost               // what a host name may hold: letters, digits, hyphen, underscore, dot
	inName               // what a field name may hold: a token in lower case
	inMethod             // tchar, RFC 9110, section 5.6.2
)

var class = func() (t [256]uint8) {
	for c := range t {
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[c] |= inValue
		}
	}
	for c := '!'; c <= '~'; c++ {
		if c != '#' {
			t[c] |= inTarget
		}
		switch {
		case 'A' <= c && c <= 'Z':
			t[c] |= inMethod | inHost
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
			t[c] |= inMethod | inName | inHost
		case strings.ContainsRune("!#$%&'*+^`|~", c):
			t[c] |= inMethod | inName
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
		case class[c]&inMethod != 0:
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

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// splitHost checks an authority, which is a host with an optional port and
// nothing else (RFC 9113, section 8.3.1: no userinfo), and returns its host in
// lower case, without the port or a final dot. An IPv6 address keeps its
// brackets.
func splitHost(authority string) (host string, ok bool) {
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
	} else {
		n := span(authority, inHost)
		host, port = strings.TrimSuffix(authority[:n], "."), authority[n:]
		if host == "" || len(host) > 253 || host[0] == '.' || host[len(host)-1] == '.' || strings.Contains(host, "..") {
			return "", false
		}
	}
	return strings.ToLower(host), port == "" || isPort(port)
}

// isPort takes a colon and a port number.
func isPort(s string) bool {
	if s[0] != ':' || len(s) < 2 || len(s) > 6 {
		return false
	}
	n := 0
	for i := 1; i < len(s); i++ {
		if !isDigit(s[i]) {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

// parseLength reads a Content-Length: digits, nothing else, and no more than
// an int64 holds whatever they are.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		if !isDigit(s[i]) {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// appendTarget appends a part of a request target. Bytes that no target may
// hold are percent-encoded.
func appendTarget(b []byte, s string) []byte {
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
