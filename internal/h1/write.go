package h1

import (
	"strconv"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// The fields that are never copied from a Header, because they belong to one
// connection and are written as that one needs them.
const (
	hopFields = 1<<exchange.Connection | 1<<exchange.ContentLength | 1<<exchange.HTTP2Settings |
		1<<exchange.KeepAlive | 1<<exchange.ProxyConnection | 1<<exchange.TransferEncoding | 1<<exchange.Upgrade
	requestHopFields = hopFields | 1<<exchange.Host | 1<<exchange.Expect | 1<<exchange.TE
)

// AppendRequestHead appends the head of a request as it goes to an upstream:
// r's target, authority, fields and framing. expect asks for 100 Continue
// before the body, closes for the connection to end with the answer. A request
// with an Upgrade asks to switch protocols. No byte in r can break out of its
// place.
func AppendRequestHead(b []byte, r *exchange.Request, expect, closes bool) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = exchange.AppendTarget(b, r.Path)
	if r.HasQuery {
		b = append(b, '?')
		b = exchange.AppendTarget(b, r.Query)
	}
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendField(b, "Host", r.Authority)
	b = AppendFields(b, &r.Header, requestHopFields)
	switch {
	case r.Length > 0:
		b = appendLength(b, r.Length)
	case r.Length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case bodyUsual(r.Method):
		b = append(b, "Content-Length: 0\r\n"...) // RFC 9110, section 8.6
	}
	if expect {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	switch {
	case r.Upgrade != "":
		b = append(b, "Connection: Upgrade\r\n"...)
		b = appendField(b, "Upgrade", r.Upgrade)
	case closes:
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}

func bodyUsual(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// HopFields are the fields of an answer that are never copied from a Header,
// for engines that write answers by other means.
const HopFields = hopFields

// ResponseHead is what AppendResponseHead writes beside the fields.
type ResponseHead struct {
	Status     int
	Framing    Framing
	Bodiless   bool   // the framing is not written, or only a length: see Length
	Length     int64  // of a bodiless answer: what GET would have had, or exchange.Unknown
	Connection string // the Connection field's value, "" for none
	Date       string // added where the fields have none, "" for no addition
	Server     string // likewise
}

// AppendResponseHead appends the head of an answer.
func AppendResponseHead(b []byte, o *ResponseHead, h *exchange.Header) []byte {
	b = appendStatusLine(b, o.Status)
	skip := uint64(hopFields)
	if o.Status == 101 || o.Status == 426 {
		skip &^= 1 << exchange.Upgrade
	}
	b = AppendFields(b, h, skip)
	if o.Date != "" && !h.Has(exchange.Date) {
		b = appendField(b, "Date", o.Date)
	}
	if o.Server != "" && !h.Has(exchange.Server) {
		b = appendField(b, "Server", o.Server)
	}
	switch {
	case o.Bodiless && o.Length < 0, !o.Bodiless && o.Framing == UntilClose:
	case o.Bodiless:
		b = appendLength(b, o.Length)
	case o.Framing == Chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	default:
		b = appendLength(b, int64(o.Framing))
	}
	if o.Connection != "" {
		b = appendField(b, "Connection", o.Connection)
	}
	return append(b, "\r\n"...)
}

func appendStatusLine(b []byte, status int) []byte {
	if status == 200 {
		return append(b, "HTTP/1.1 200 OK\r\n"...)
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, exchange.StatusText(status)...)
	return append(b, "\r\n"...)
}

// AppendFields appends the field lines of h but those in the set skip. What
// may have been put together since the fields were read is made harmless: a
// name that is no token is left out, a control character in a value becomes a
// space.
func AppendFields(b []byte, h *exchange.Header, skip uint64) []byte {
	fields := h.Fields()
	for i := range fields {
		f := &fields[i]
		if f.Known.Bit()&skip != 0 || f.Known == exchange.Other && !exchange.IsToken(f.Name) {
			continue
		}
		b = appendField(b, f.Name, f.Value)
	}
	return b
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	start := len(b)
	b = append(b, value...)
	for i := control(b, start); i < len(b); i = control(b, i) {
		b[i] = ' '
	}
	return append(b, "\r\n"...)
}

func appendLength(b []byte, n int64) []byte {
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, n, 10)
	return append(b, "\r\n"...)
}

// AppendChunkHead appends what stands before a chunk's n bytes, n > 0. The
// CRLF that ends the chunk before it comes with it, so that a chunk can be
// written with what precedes it; first says that there is none.
func AppendChunkHead(b []byte, n int, first bool) []byte {
	if !first {
		b = append(b, "\r\n"...)
	}
	b = strconv.AppendUint(b, uint64(n), 16)
	return append(b, "\r\n"...)
}

// AppendLastChunk appends the end of a chunked body with its trailer fields.
func AppendLastChunk(b []byte, t *exchange.Header, first bool) []byte {
	if !first {
		b = append(b, "\r\n"...)
	}
	b = append(b, "0\r\n"...)
	fields := t.Fields()
	for i := range fields {
		if f := &fields[i]; mayTrail(f) && exchange.IsToken(f.Name) {
			b = appendField(b, f.Name, f.Value)
		}
	}
	return append(b, "\r\n"...)
}
