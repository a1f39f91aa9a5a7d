package h2

import (
	"strings"

	"golang.org/x/net/http2/hpack"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// This file has the rules for the fields of a message (RFC 9113, sections 8.2
// and 8.3, and RFC 8441 for :protocol). They are checked while a header block
// is decoded: what is over a limit is not kept.

// section is what a header block is.
type section uint8

const (
	ignored section = iota // decoded for the decoder's sake only
	requestHead
	responseHead
	trailer
)

// The pseudo-header fields.
const (
	gotMethod = 1 << iota
	gotScheme
	gotAuthority
	gotPath
	gotProtocol
	gotStatus
)

// fieldBlock takes the fields of one header block.
type fieldBlock struct {
	kind    section
	lenient bool             // it came from an upstream
	h       *exchange.Header // where ordinary fields go
	room    int              // bytes that may still come, counted as RFC 9113, section 10.5.1, does
	left    int              // fields that may still come; crumbs of a cookie count each

	pseudo                                    uint8 // those that came
	method, scheme, authority, path, protocol string
	status                                    string
	ordinary                                  bool // an ordinary field came: no pseudo-header field may follow

	hosts, lengths, expects, cookies int
	host, length, expect             string
	crumbs                           []string // the cookie's, when there are several

	bad   error // what is malformed, the first
	large bool  // a limit is exceeded
}

// begin readies the block for another header block.
func (b *fieldBlock) begin(kind section, h *exchange.Header, bytes, fields int) {
	crumbs := b.crumbs[:0]
	clear(b.crumbs)
	*b = fieldBlock{kind: kind, lenient: b.lenient, h: h, room: bytes, left: fields, crumbs: crumbs}
}

// done reports whether further fields are of no interest.
func (b *fieldBlock) done() bool { return b.kind == ignored || b.large || b.bad != nil }

// field takes a field from the decoder.
func (b *fieldBlock) field(f hpack.HeaderField) { b.take(f.Name, f.Value) }

func (b *fieldBlock) take(name, value string) {
	if b.done() {
		return
	}
	b.room -= len(name) + len(value) + 32
	if b.left--; b.left < 0 || b.room < 0 {
		b.large = true
		return
	}
	if strings.HasPrefix(name, ":") {
		b.bad = b.takePseudo(name, value)
		return
	}
	b.ordinary = true
	b.bad = b.takeOrdinary(name, value)
}

func (b *fieldBlock) takePseudo(name, value string) error {
	if b.ordinary {
		return Malformed("pseudo-header field after an ordinary one")
	}
	var bit uint8
	var to *string
	if b.kind == requestHead {
		switch name {
		case ":method":
			bit, to = gotMethod, &b.method
		case ":scheme":
			bit, to = gotScheme, &b.scheme
		case ":authority":
			bit, to = gotAuthority, &b.authority
		case ":path":
			bit, to = gotPath, &b.path
		case ":protocol":
			bit, to = gotProtocol, &b.protocol
		}
	} else if b.kind == responseHead && name == ":status" {
		bit, to = gotStatus, &b.status
	}
	switch {
	case bit == 0:
		return Malformed("pseudo-header field that has no place here")
	case b.pseudo&bit != 0:
		return Malformed("pseudo-header field given twice")
	}
	b.pseudo |= bit
	*to = value
	return nil
}

// connFields are forbidden in HTTP/2 (RFC 9113, section 8.2.2).
const connFields = 1<<exchange.Connection | 1<<exchange.KeepAlive | 1<<exchange.ProxyConnection |
	1<<exchange.TransferEncoding | 1<<exchange.Upgrade | 1<<exchange.HTTP2Settings

func (b *fieldBlock) takeOrdinary(name, value string) error {
	if !exchange.IsLowerToken(name) {
		return Malformed("field name is not a token in lower case")
	}
	if b.lenient {
		// Services do write such values; we do not pass the white space on.
		value = strings.Trim(value, " \t")
	}
	if err := checkValue(value); err != nil {
		return err
	}
	k := exchange.LookupKnown(name)
	if k.Bit()&connFields != 0 {
		return Malformed("field of an HTTP/1 connection")
	}
	switch k {
	case exchange.TE:
		if b.kind != requestHead || !exchange.EqualFold(value, "trailers") {
			return Malformed("TE is not exactly trailers")
		}
	case exchange.ContentLength:
		if b.kind == trailer {
			return nil // it has no meaning there, and no place
		}
		b.lengths++
		b.length = value
		return nil
	case exchange.Host:
		if b.kind == trailer {
			return nil
		}
		if b.kind == requestHead {
			b.hosts++
			b.host = value
			return nil
		}
	case exchange.Expect:
		if b.kind == requestHead {
			b.expects++
			b.expect = value
			return nil
		}
	case exchange.Cookie:
		if b.kind == requestHead {
			b.crumb(value)
			return nil
		}
	}
	f := exchange.Field{Name: name, Value: value, Known: k}
	if b.kind != trailer || mayTrail(&f) {
		b.h.Append(f)
	}
	return nil
}

// crumb takes a cookie, or a part of one (RFC 9113, section 8.2.3). It stands
// where the first part stood.
func (b *fieldBlock) crumb(value string) {
	if b.cookies++; b.cookies == 1 {
		b.h.AddKnown(exchange.Cookie, value)
	}
	if value != "" {
		b.crumbs = append(b.crumbs, value)
	}
}

// checkValue refuses what could mean something else to another reader.
func checkValue(s string) error {
	if s == "" {
		return nil
	}
	if first, last := s[0], s[len(s)-1]; first == ' ' || first == '\t' || last == ' ' || last == '\t' {
		return Malformed("white space around a field value")
	}
	if !exchange.IsValue(s) {
		return Malformed("control character in a field value")
	}
	return nil
}

// request makes a request of the block, whose body follows unless ended. It
// fills in everything but the scheme: how the client came is known better.
func (b *fieldBlock) request(r *exchange.Request, ended bool) error {
	if b.bad != nil {
		return b.bad
	}
	if b.cookies > 1 {
		b.h.SetKnown(exchange.Cookie, strings.Join(b.crumbs, "; "))
	}
	if b.pseudo&gotMethod == 0 || !exchange.IsToken(b.method) {
		return Malformed(":method is missing or not a token")
	}
	r.Proto, r.Method = exchange.HTTP2, b.method
	if b.method == "CONNECT" && b.pseudo&gotProtocol == 0 {
		return b.connect(r)
	}
	const all = gotScheme | gotPath
	if b.pseudo&all != all {
		return Malformed("no :scheme or no :path")
	}
	if b.scheme != "http" && b.scheme != "https" {
		return Malformed(":scheme is neither http nor https")
	}
	if err := b.target(r); err != nil {
		return err
	}
	if err := b.settleAuthority(r); err != nil {
		return err
	}
	if b.pseudo&gotProtocol != 0 {
		return b.extendedConnect(r)
	}
	return b.frame(&r.Length, ended)
}

// connect checks what a CONNECT request may have (RFC 9113, section 8.5). It
// is refused in any case.
func (b *fieldBlock) connect(r *exchange.Request) error {
	if b.pseudo != gotMethod|gotAuthority {
		return Malformed("CONNECT has :scheme or :path, or no :authority")
	}
	r.Authority = b.authority
	return nil
}

// extendedConnect turns a request for a tunnel (RFC 8441, section 4) into the
// one that HTTP/1 knows (RFC 6455, section 4.1).
func (b *fieldBlock) extendedConnect(r *exchange.Request) error {
	switch {
	case b.method != "CONNECT":
		return Malformed(":protocol without CONNECT")
	case b.pseudo&gotAuthority == 0:
		return Malformed("no :authority")
	case !exchange.IsToken(b.protocol):
		return Malformed(":protocol is not a token")
	case b.lengths > 0:
		return Malformed("Content-Length of a tunnel")
	}
	r.Method, r.Upgrade, r.Length = "GET", b.protocol, 0
	return nil
}

// target reads :path (RFC 9113, section 8.3.1).
func (b *fieldBlock) target(r *exchange.Request) error {
	p := b.path
	switch {
	case !exchange.IsTarget(p):
		return Malformed(":path is not visible ASCII")
	case p[0] == '/':
	case p == "*" && b.method == "OPTIONS":
		r.Asterisk = true
	default:
		return Malformed(":path does not begin with a slash")
	}
	r.RawPath = p
	if i := strings.IndexByte(p, '?'); i >= 0 {
		r.RawPath, r.Query, r.HasQuery = p[:i], p[i+1:], true
	}
	r.Path = r.RawPath
	return nil
}

// settleAuthority makes one authority out of :authority and Host, which must
// agree (RFC 9113, section 8.3.1): a reader that took the other one would
// serve another site than was matched.
func (b *fieldBlock) settleAuthority(r *exchange.Request) error {
	r.Authority = b.authority
	switch {
	case b.hosts > 1:
		return Malformed("more than one Host field")
	case b.hosts == 1 && b.pseudo&gotAuthority == 0:
		r.Authority = b.host
	case b.hosts == 1 && !exchange.EqualFold(b.host, b.authority):
		return Malformed("Host field differs from :authority")
	}
	host, ok := exchange.SplitHost(r.Authority)
	if !ok {
		return Malformed(":authority is not a host with an optional port")
	}
	r.Host = host
	return nil
}

// frame decides how long a body is. What a Content-Length says must be what
// comes (RFC 9113, section 8.1.1); two of them are refused even when they are
// equal.
func (b *fieldBlock) frame(length *int64, ended bool) error {
	*length = exchange.Unknown
	if ended {
		*length = 0
	}
	if b.lengths == 0 {
		return nil
	}
	n, ok := exchange.ParseLength(b.length)
	switch {
	case b.lengths > 1:
		return Malformed("more than one Content-Length")
	case !ok:
		return Malformed("Content-Length is not a number of at most 18 digits")
	case ended && n != 0:
		return Malformed("Content-Length of a message without a body")
	}
	*length = n
	return nil
}

// response reads the head of an answer to a request with that method. length
// is what it declares, for HEAD and 304 of the answer that GET would have had.
// bodiless says that no byte of a body may follow.
func (b *fieldBlock) response(method string, ended bool) (status int, length int64, bodiless bool, err error) {
	if b.bad != nil {
		return 0, 0, false, b.bad
	}
	s := b.status
	if len(s) != 3 || s[0] < '1' || s[0] > '5' || !exchange.IsDigit(s[1]) || !exchange.IsDigit(s[2]) {
		return 0, 0, false, Malformed(":status is missing or not a number between 100 and 599")
	}
	status = int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
	switch {
	case status == 101:
		return 0, 0, false, Malformed("status 101 does not exist in HTTP/2") // RFC 9113, section 8.6
	case status < 200 && ended:
		return 0, 0, false, Malformed("interim answer ends the stream")
	case status < 200:
		return status, 0, true, nil
	}
	bodiless = method == "HEAD" || status == 304 || status == 204
	err = b.frame(&length, ended && !bodiless)
	switch {
	case err != nil:
		return 0, 0, false, err
	case status == 204 && length > 0:
		return 0, 0, false, Malformed("answer without a body declares one")
	case status == 204, bodiless && b.lengths == 0 && status == 304:
		length = 0
	}
	return status, length, bodiless, nil
}
