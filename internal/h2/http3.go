package h2

import "gatehouse.dev/gatehouse/internal/exchange"

// This file is what HTTP/3 has in common with HTTP/2: the rules for the fields
// of a request (RFC 9114, sections 4.2 and 4.3, which repeat those of RFC
// 9113), so that both refuse the same.

// Fields checks the fields of a request that came by HTTP/3. Begin comes first,
// then Add for each of them, then Request.
type Fields struct{ block fieldBlock }

// Begin readies f for a head whose ordinary fields go to h, within so many
// bytes, counted as RFC 9114, section 4.2.2, does, and so many lines.
func (f *Fields) Begin(h *exchange.Header, bytes, lines int) {
	f.block.begin(requestHead, h, bytes, lines)
}

// Add takes a field. Names are in lower case; those of pseudo-header fields
// begin with a colon.
func (f *Fields) Add(name, value string) { f.block.take(name, value) }

// Request makes a request of the fields, whose body has at most so many bytes
// and follows unless ended. A problem is the answer to one that is not to be
// served.
func (f *Fields) Request(r *exchange.Request, body int64, ended bool) *exchange.Problem {
	if f.block.large {
		return &headTooLarge
	}
	err := f.block.request(r, ended)
	r.Proto = exchange.HTTP3
	if err != nil {
		p := malformedRequest.With(err)
		p.Detail = "The request is not valid HTTP/3."
		return p
	}
	return f.block.admit(r, body)
}

// Switched checks that a service accepted the WebSocket that an extended
// CONNECT asked for, and removes the proof, which neither HTTP/2 nor HTTP/3
// knows (RFC 8441, section 5).
func Switched(x *exchange.Exchange) error {
	h := &x.Response.Header
	if h.Get(acceptField) != acceptOf(x.Request.Header.Known(exchange.SecWebSocketKey)) {
		return errAccept
	}
	h.Del(acceptField)
	return nil
}
