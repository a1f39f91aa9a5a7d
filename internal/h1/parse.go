package h1

import (
	"bytes"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// ParseRequest reads a request's head, as FindHead delimited it, into r, and
// decides where the body ends. The head is turned into one string, from which
// everything in r is cut: one allocation. r.Scheme says how the client came;
// an absolute target must agree with it. most is the limit of field lines.
//
// Host, Content-Length, Transfer-Encoding, Expect and Upgrade go into typed
// fields of r, or are refused, and are not in r.Header; so no Connection
// option can name them away. Other fields are there as they came. Path is the
// raw path: normalising is the router's business.
func ParseRequest(head []byte, r *exchange.Request, most int) (Framing, *exchange.Problem) {
	s := string(head)
	line := strings.IndexByte(s, '\r')
	if s[line+1] != '\n' {
		return 0, refusal(Malformed("request line holds a bare CR"))
	}
	target, p := parseRequestLine(s[:line], r)
	if p != nil {
		return 0, p
	}
	var sp special
	if err := parseFields(head, s, line+2, most, requestFields, &r.Header, &sp); err != nil {
		return 0, refusal(err)
	}
	if r.Method == "CONNECT" {
		return 0, &connectRefused
	}
	if err := parseTarget(target, r); err != nil {
		return 0, refusal(err)
	}
	if err := sp.settleAuthority(r); err != nil {
		return 0, refusal(err)
	}
	f, err := sp.frame(r.Proto, 0)
	if err != nil {
		return 0, refusal(err)
	}
	r.Length = f.Length()
	if sp.expects > 0 && r.Proto == exchange.HTTP11 { // in HTTP/1.0 it means nothing: RFC 9110, section 10.1.1
		if sp.expects > 1 || !exchange.EqualFold(sp.expect, "100-continue") {
			return 0, &expectationFailed
		}
		r.Expect = f != 0
	}
	if sp.upgrades == 1 && f == 0 && r.Proto == exchange.HTTP11 && connectionHas(&r.Header, "upgrade") {
		r.Upgrade = upgradeFrom(sp.upgrade)
	}
	// A service may not tell "trace" from TRACE.
	if exchange.EqualFold(r.Method, "TRACE") {
		return 0, &traceRefused
	}
	return f, nil
}

// parseRequestLine reads "METHOD target HTTP/1.x" with single spaces (RFC
// 9112, section 3).
func parseRequestLine(s string, r *exchange.Request) (target string, p *exchange.Problem) {
	n := exchange.SpanToken(s)
	if n == 0 || n == len(s) || s[n] != ' ' {
		return "", refusal(Malformed("request line does not begin with a method and a space"))
	}
	r.Method, s = s[:n], s[n+1:]
	n = exchange.SpanTarget(s)
	if n == 0 || n == len(s) || s[n] != ' ' {
		return "", refusal(Malformed("request line has no target of visible ASCII followed by a space"))
	}
	target, s = s[:n], s[n+1:]
	switch {
	case s == "HTTP/1.1":
		r.Proto = exchange.HTTP11
	case s == "HTTP/1.0":
		r.Proto = exchange.HTTP10
	case len(s) != len("HTTP/1.1") || s[:5] != "HTTP/" || !exchange.IsDigit(s[5]) || s[6] != '.' || !exchange.IsDigit(s[7]):
		return "", refusal(Malformed("request line does not end in a version"))
	case s[5] == '1':
		r.Proto = exchange.HTTP11 // a later 1.x is read as the one we know: RFC 9110, section 2.5
	default:
		return "", &versionUnsupported
	}
	return target, nil
}

// parseTarget takes the forms of RFC 9112, section 3.2, but the one of
// CONNECT. The authority of an absolute target waits in r.Authority for
// settleAuthority.
func parseTarget(target string, r *exchange.Request) error {
	switch {
	case target[0] == '/':
	case target == "*":
		if r.Method != "OPTIONS" {
			return Malformed("target * is for OPTIONS only")
		}
		r.Asterisk = true
	default:
		n := len(r.Scheme)
		if len(target) < n+3 || !exchange.EqualFold(target[:n], r.Scheme) || target[n:n+3] != "://" {
			return Malformed("request target is neither a path nor a URL of this connection's scheme")
		}
		target = target[n+3:]
		n = strings.IndexAny(target, "/?")
		if n < 0 {
			n = len(target)
		}
		if n == 0 {
			return Malformed("request target has an empty authority")
		}
		r.Authority, target = target[:n], target[n:]
		switch {
		case target == "" && r.Method == "OPTIONS":
			target, r.Asterisk = "*", true // RFC 9112, section 3.2.4
		case target == "":
			target = "/"
		case target[0] == '?':
			r.RawPath, r.Path = "/", "/"
			r.Query, r.HasQuery = target[1:], true
			return nil
		}
	}
	r.RawPath = target
	if i := strings.IndexByte(target, '?'); i >= 0 {
		r.RawPath, r.Query, r.HasQuery = target[:i], target[i+1:], true
	}
	r.Path = r.RawPath
	return nil
}

// settleAuthority makes one authority out of target and Host field. RFC 9112,
// section 3.2.2, has an absolute target win over Host; but a client must send
// both alike (section 3.2), and a reader that took the other one would serve
// another site than was matched. So those that differ are refused.
func (sp *special) settleAuthority(r *exchange.Request) error {
	switch {
	case sp.hosts > 1:
		return Malformed("more than one Host field")
	case sp.hosts == 0 && r.Proto != exchange.HTTP10:
		return Malformed("no Host field")
	case sp.hosts == 0 && r.Authority == "":
		return nil // HTTP/1.0 need not name a host
	case sp.hosts == 1 && r.Authority != "" && !exchange.EqualFold(r.Authority, sp.host):
		return Malformed("Host field differs from the authority of the target")
	case sp.hosts == 1:
		r.Authority = sp.host
	}
	host, ok := exchange.SplitHost(r.Authority)
	if !ok {
		return Malformed("Host field is not a host with an optional port")
	}
	r.Host = host
	return nil
}

// upgradeFrom returns the protocols of an Upgrade field without those that
// would go on as HTTP or TLS on the same connection, past everything that is
// checked here: h2c above all (RFC 9113, appendix B). A list that is not well
// formed asks for nothing.
func upgradeFrom(list string) string {
	kept, dropped := "", false
	for t := range exchange.Tokens(list) {
		name, version, versioned := strings.Cut(t, "/")
		if !exchange.IsToken(name) || versioned && !exchange.IsToken(version) {
			return ""
		}
		switch {
		case len(name) >= 2 && name[0]|0x20 == 'h' && name[1] == '2',
			exchange.EqualFold(name, "http"), exchange.EqualFold(name, "tls"):
			dropped = true
		case kept == "":
			kept = t
		default:
			kept += ", " + t
		}
	}
	if !dropped && kept != "" {
		return list
	}
	return kept
}

// ParseResponse reads an answer's head, as FindHead delimited it, into r, and
// decides where the body of an answer to that method ends. The head is turned
// into one string: one allocation. closes says that the connection ends with
// the answer. Every error is a Malformed.
//
// Content-Length and Transfer-Encoding go into r.Length and are not in
// r.Header. Interim answers (1xx) are read like any other.
func ParseResponse(head []byte, r *exchange.Response, method string, most int) (f Framing, closes bool, err error) {
	// "HTTP/1.x NNN reason". The reason may be empty, and then some leave out
	// the space before it.
	line := bytes.IndexByte(head, '\r')
	if head[line+1] != '\n' || control(head, 0) != line {
		return 0, false, Malformed("status line holds a control character")
	}
	if line < 12 || string(head[:7]) != "HTTP/1." || head[7] != '0' && head[7] != '1' || head[8] != ' ' {
		return 0, false, Malformed("status line does not begin with HTTP/1.1 or HTTP/1.0 and a space")
	}
	if line > 12 && head[12] != ' ' {
		return 0, false, Malformed("status is not followed by a space")
	}
	r.Status = 0
	for _, c := range head[9:12] {
		if !exchange.IsDigit(c) {
			return 0, false, Malformed("status is not a number of three digits")
		}
		r.Status = r.Status*10 + int(c-'0')
	}
	if r.Status < 100 || r.Status > 599 {
		return 0, false, Malformed("status is not between 100 and 599")
	}
	proto := exchange.HTTP11
	if head[7] == '0' {
		proto = exchange.HTTP10
	}
	var sp special
	if err := parseFields(head, string(head), line+2, most, framingFields, &r.Header, &sp); err != nil {
		return 0, false, err
	}
	f, r.Length, err = sp.frameResponse(proto, r.Status, method)
	if err != nil {
		return 0, false, err
	}
	return f, f == UntilClose || ends(&r.Header, proto), nil
}
