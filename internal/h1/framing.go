package h1

import "gatehouse.dev/gatehouse/internal/exchange"

// Framing says where a body ends: after so many bytes, or one of the two
// below.
type Framing int64

const (
	// Chunked bodies end with their last chunk (RFC 9112, section 7.1).
	Chunked Framing = -1
	// UntilClose bodies end with the connection. Only answers have them.
	UntilClose Framing = -2
)

// Length returns the body's length as exchange counts it.
func (f Framing) Length() int64 {
	if f < 0 {
		return exchange.Unknown
	}
	return int64(f)
}

// frame is the one place that decides where a body ends (RFC 9112, section
// 6.3), for requests and for answers. Whatever two readers could see
// differently is refused: a length beside a coding, several lengths even when
// they are equal, anything but digits in a length, any coding but exactly
// chunked, a coding in HTTP/1.0. none is the framing of a message that says
// nothing.
func (sp *special) frame(p exchange.Proto, none Framing) (Framing, error) {
	switch {
	case sp.lengths == 0 && sp.codings == 0:
		return none, nil
	case sp.lengths > 0 && sp.codings > 0:
		return 0, Malformed("both Content-Length and Transfer-Encoding")
	case sp.lengths > 1:
		return 0, Malformed("more than one Content-Length")
	case sp.lengths == 1:
		n, ok := exchange.ParseLength(sp.length)
		if !ok {
			return 0, Malformed("Content-Length is not a number of at most 18 digits")
		}
		return Framing(n), nil
	case p == exchange.HTTP10:
		return 0, Malformed("Transfer-Encoding in HTTP/1.0")
	case sp.codings > 1:
		return 0, Malformed("more than one Transfer-Encoding")
	case exchange.EqualFold(sp.coding, "chunked"):
		return Chunked, nil
	case unknownCoding(sp.coding):
		return 0, errCoding
	}
	return 0, Malformed("Transfer-Encoding is not exactly chunked")
}

// errCoding is the error of transfer codings that we do not have.
const errCoding = Malformed("Transfer-Encoding names a coding other than chunked")

// unknownCoding reports whether a list of codings is well-formed and holds one
// that we do not have (RFC 9112, section 6.1: 501).
func unknownCoding(list string) bool {
	unknown := false
	for t := range exchange.Tokens(list) {
		if !exchange.IsToken(t) {
			return false
		}
		unknown = unknown || !exchange.EqualFold(t, "chunked")
	}
	return unknown
}

// frameResponse frames an answer to a request with that method. length is what
// it declares, for HEAD and 304 of the answer that GET would have had.
func (sp *special) frameResponse(p exchange.Proto, status int, method string) (f Framing, length int64, err error) {
	f, err = sp.frame(p, UntilClose)
	if err != nil {
		return 0, 0, err
	}
	switch {
	case status < 200 || status == 204:
		// Neither may be declared (RFC 9110, section 8.6; RFC 9112, section
		// 6.1). A zero does no harm; with anything else it is anybody's guess
		// whether bytes follow.
		if f == Chunked || f > 0 {
			return 0, 0, Malformed("answer without a body declares one")
		}
		return 0, 0, nil
	case status == 304 || method == "HEAD":
		return 0, f.Length(), nil
	}
	return f, f.Length(), nil
}
