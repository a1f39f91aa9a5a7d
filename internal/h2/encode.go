package h2

import (
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// This file writes header blocks. The encoder has no state: it uses the static
// table and never the dynamic one, whose upkeep costs more than the bytes that
// it saves between machines, and which every connection would have to hold.

// staticName is the index of a field name in the static table of HPACK (RFC
// 7541, appendix A), 0 where it has none.
var staticName = [64]uint8{
	exchange.Accept: 19, exchange.AcceptEncoding: 16, exchange.AcceptLanguage: 17,
	exchange.AcceptRanges: 18, exchange.Age: 21, exchange.Allow: 22, exchange.Authorization: 23,
	exchange.CacheControl: 24, exchange.ContentEncoding: 26, exchange.ContentLength: 28,
	exchange.ContentRange: 30, exchange.ContentType: 31, exchange.Cookie: 32, exchange.Date: 33,
	exchange.ETag: 34, exchange.Expect: 35, exchange.Expires: 36, exchange.IfModifiedSince: 40,
	exchange.IfNoneMatch: 41, exchange.LastModified: 44, exchange.Location: 46,
	exchange.MaxForwards: 47, exchange.ProxyAuthenticate: 48, exchange.ProxyAuthorization: 49,
	exchange.Range: 50, exchange.Referer: 51, exchange.RetryAfter: 53, exchange.Server: 54,
	exchange.SetCookie: 55, exchange.StrictTransportSecurity: 56, exchange.UserAgent: 58,
	exchange.Vary: 59, exchange.Via: 60, exchange.WWWAuthenticate: 61,
}

// Indices of pseudo-header fields in the static table.
const (
	staticAuthority = 1
	staticMethod    = 2 // :method GET; 3 is POST
	staticPath      = 4 // :path /
	staticHTTP      = 6 // :scheme http
	staticHTTPS     = 7
	staticStatus    = 8 // :status 200
)

// never marks the fields that no intermediary may put into a table (RFC 7541,
// section 7.1.3).
const never = 1<<exchange.Authorization | 1<<exchange.Cookie | 1<<exchange.ProxyAuthorization |
	1<<exchange.SetCookie | 1<<exchange.XAPIKey

// appendInt appends an integer with a prefix of that many bits (RFC 7541,
// section 5.1), whose other bits are given.
func appendInt(b []byte, bits uint8, other byte, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(b, other|byte(n))
	}
	b = append(b, other|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// appendIndexed appends a field that the static table has as a whole.
func appendIndexed(b []byte, index byte) []byte { return append(b, 0x80|index) }

// appendLiteral begins a field whose name is in the static table; its value
// follows.
func appendLiteral(b []byte, index int) []byte { return appendInt(b, 4, 0, index) }

func appendText(b []byte, s string) []byte {
	return append(appendInt(b, 7, 0, len(s)), s...)
}

// appendNamed appends a pseudo-header field, or another one with a name that
// needs no check.
func appendNamed(b []byte, name, value string) []byte {
	return appendText(appendText(append(b, 0), name), value)
}

// appendValue appends a field's value. What may have been put together since
// it was read is made harmless: white space and control characters around it
// are left out, one within it becomes a space.
func appendValue(b []byte, s string) []byte {
	for s != "" && (s[0] <= ' ' || s[0] == 0x7f) {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] <= ' ' || s[len(s)-1] == 0x7f) {
		s = s[:len(s)-1]
	}
	b = appendInt(b, 7, 0, len(s))
	start := len(b)
	b = append(b, s...)
	for i := start; i < len(b); i++ {
		if !exchange.InValue(b[i]) {
			b[i] = ' '
		}
	}
	return b
}

// appendField appends a field. Its name is written in lower case (RFC 9113,
// section 8.2); one that is no token is left out.
func appendField(b []byte, f *exchange.Field) []byte {
	first := byte(0)
	if f.Known.Bit()&never != 0 {
		first = 0x10
	}
	if index := staticName[f.Known]; index != 0 {
		return appendValue(appendInt(b, 4, first, int(index)), f.Value)
	}
	before := len(b)
	b = appendInt(append(b, first), 7, 0, len(f.Name))
	for i := 0; i < len(f.Name); i++ {
		c := lowerToken[f.Name[i]]
		if c == 0 {
			return b[:before]
		}
		b = append(b, c)
	}
	if f.Name == "" {
		return b[:before]
	}
	return appendValue(b, f.Value)
}

// hopFields are never copied from a Header: they belong to HTTP/1 connections
// or are written anew. TE is for requests to decide.
const hopFields = 1<<exchange.Connection | 1<<exchange.ContentLength | 1<<exchange.HTTP2Settings |
	1<<exchange.KeepAlive | 1<<exchange.ProxyConnection | 1<<exchange.TransferEncoding |
	1<<exchange.Upgrade | 1<<exchange.Host | 1<<exchange.TE | 1<<exchange.Expect

// appendFields appends the fields of h but those in the set skip.
func appendFields(b []byte, h *exchange.Header, skip uint64) []byte {
	fields := h.Fields()
	for i := range fields {
		if f := &fields[i]; f.Known.Bit()&skip == 0 {
			b = appendField(b, f)
		}
	}
	return b
}

// fieldsSize is at least what appendFields needs.
func fieldsSize(h *exchange.Header) int {
	n := 0
	fields := h.Fields()
	for i := range fields {
		n += len(fields[i].Name) + len(fields[i].Value) + 10
	}
	return n
}

// staticStatuses are the statuses that the static table has, from index 8.
var staticStatuses = [...]int{200, 204, 206, 304, 400, 404, 500}

func appendStatus(b []byte, status int) []byte {
	for i, s := range staticStatuses {
		if s == status {
			return appendIndexed(b, byte(staticStatus+i))
		}
	}
	b = append(appendLiteral(b, staticStatus), 3)
	return append(b, byte('0'+status/100), byte('0'+status/10%10), byte('0'+status%10))
}

func appendContentLength(b []byte, n int64) []byte {
	b = appendLiteral(b, int(staticName[exchange.ContentLength]))
	at := len(b)
	b = strconv.AppendInt(append(b, 0), n, 10)
	b[at] = byte(len(b) - at - 1)
	return b
}

// headOnly are the fields that say how a message is framed, routed, trusted or
// to be handled: they have no meaning after the body, and some reader would
// merge them into the head (RFC 9110, section 6.5.1). They are dropped.
const headOnly = hopFields | 1<<exchange.AltSvc | 1<<exchange.Authorization | 1<<exchange.CacheControl |
	1<<exchange.ContentEncoding | 1<<exchange.ContentRange | 1<<exchange.ContentType | 1<<exchange.Cookie |
	1<<exchange.Forwarded | 1<<exchange.Location | 1<<exchange.MaxForwards | 1<<exchange.Origin |
	1<<exchange.ProxyAuthenticate | 1<<exchange.ProxyAuthorization | 1<<exchange.Range |
	1<<exchange.RetryAfter | 1<<exchange.SetCookie | 1<<exchange.StrictTransportSecurity |
	1<<exchange.Trailer | 1<<exchange.Vary | 1<<exchange.Via | 1<<exchange.WWWAuthenticate |
	1<<exchange.XAPIKey | 1<<exchange.XForwardedFor | 1<<exchange.XForwardedHost |
	1<<exchange.XForwardedPort | 1<<exchange.XForwardedProto | 1<<exchange.XRealIP |
	1<<exchange.XForwardedClientCert

// mayTrail reports whether a field may stand in a trailer section.
func mayTrail(f *exchange.Field) bool {
	const forwarded = "x-forwarded-"
	return f.Known.Bit()&headOnly == 0 && strings.IndexByte(f.Name, '_') < 0 &&
		(len(f.Name) < len(forwarded) || !exchange.EqualFold(f.Name[:len(forwarded)], forwarded))
}

func appendTrailer(b []byte, h *exchange.Header) []byte {
	fields := h.Fields()
	for i := range fields {
		if f := &fields[i]; mayTrail(f) {
			b = appendField(b, f)
		}
	}
	return b
}
