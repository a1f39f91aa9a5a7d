package exchange

import (
	"strconv"
	"time"
)

// Side says whose fault a problem is.
type Side uint8

// The sides of an exchange.
const (
	SideClient   Side = iota // the request was at fault, or the client went away
	SideGateway              // the gateway could not do its part
	SideUpstream             // the service behind it failed
)

func (s Side) String() string {
	switch s {
	case SideClient:
		return "client"
	case SideGateway:
		return "gateway"
	default:
		return "upstream"
	}
}

// Problem is why the gateway answers a request itself, and the only error that
// crosses a phase. A Problem is never changed once it is given to an exchange,
// so that common ones can be package variables.
type Problem struct {
	Status int    // HTTP status; 499 is only logged: the client has gone
	Code   string // a stable word in snake_case, shared by answer, log and metrics
	Detail string // a sentence for the client; no internals, no secrets
	Side   Side
	Retry  time.Duration // when positive, sent as Retry-After, rounded up to seconds
	Cause  error         // for the log only
	Fields []Field       // further fields of the answer, for example WWW-Authenticate
	Close  bool          // the client's connection must not be used again
}

// StatusClientGone is logged for a request whose client went away before the
// answer; it is never sent.
const StatusClientGone = 499

// Error describes the problem with its cause, for logs.
func (p *Problem) Error() string {
	s := p.Code + ": " + p.Detail
	if p.Cause != nil {
		s += ": " + p.Cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Cause }

// With returns a copy of the problem that carries a cause.
func (p *Problem) With(cause error) *Problem {
	q := *p
	q.Cause = cause
	return &q
}

// Render gives the exchange the answer that its problem asks for: RFC 9457
// problem JSON, or plain text or HTML where the client's Accept prefers them,
// or a status of gRPC to whom speaks that. It replaces status, header and body
// of the response.
func (x *Exchange) Render() {
	if x.Request.GRPC() {
		x.renderGRPC()
		return
	}
	p := x.Problem
	r := &x.Response
	r.Reset()
	r.Status = p.Status
	if p.Retry > 0 {
		secs := int64((p.Retry + time.Second - 1) / time.Second)
		r.Header.AddKnown(RetryAfter, strconv.FormatInt(secs, 10))
	}
	for _, f := range p.Fields {
		r.Header.Append(f)
	}
	r.Header.AddKnown(CacheControl, "no-store")
	kind := preferred(&x.Request.Header)
	r.Header.AddKnown(ContentType, kind)
	x.render = appendProblem(x.render[:0], kind, p, x.RequestID())
	r.SetBody(x.render)
	if p.Close {
		r.Close = true
	}
}

const (
	typeProblem = "application/problem+json"
	typeText    = "text/plain; charset=utf-8"
	typeHTML    = "text/html; charset=utf-8"
)

func appendProblem(b []byte, kind string, p *Problem, id string) []byte {
	title := StatusText(p.Status)
	switch kind {
	case typeText:
		b = strconv.AppendInt(b, int64(p.Status), 10)
		b = append(b, ' ')
		b = append(b, title...)
		b = append(b, "\n\n"...)
		b = append(b, p.Detail...)
		b = append(b, "\n\ncode: "...)
		b = append(b, p.Code...)
		b = append(b, "\nrequest id: "...)
		b = append(b, id...)
		return append(b, '\n')
	case typeHTML:
		b = append(b, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>"...)
		b = strconv.AppendInt(b, int64(p.Status), 10)
		b = append(b, ' ')
		b = append(b, title...)
		b = append(b, "</title>\n<body style=\"font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em\">\n<h1>"...)
		b = strconv.AppendInt(b, int64(p.Status), 10)
		b = append(b, ' ')
		b = append(b, title...)
		b = append(b, "</h1>\n<p>"...)
		b = appendHTML(b, p.Detail)
		b = append(b, "</p>\n<p><small>"...)
		b = append(b, p.Code...)
		b = append(b, " &middot; request id "...)
		b = appendHTML(b, id)
		return append(b, "</small></p>\n</body></html>\n"...)
	}
	b = append(b, `{"type":"about:blank","title":`...)
	b = AppendJSONString(b, title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(p.Status), 10)
	b = append(b, `,"code":`...)
	b = AppendJSONString(b, p.Code)
	b = append(b, `,"detail":`...)
	b = AppendJSONString(b, p.Detail)
	b = append(b, `,"request_id":`...)
	b = AppendJSONString(b, id)
	return append(b, "}\n"...)
}

// preferred picks the type of a problem's body. JSON unless the first type of
// Accept that we can serve, by order and not by weight, is text or HTML:
// browsers put text/html first, and API clients seldom send weights.
func preferred(h *Header) string {
	for t := range Tokens(h.Known(Accept)) {
		for i := 0; i < len(t); i++ {
			if t[i] == ';' {
				t = trimOWS(t[:i])
				break
			}
		}
		switch {
		case EqualFold(t, "text/html"):
			return typeHTML
		case EqualFold(t, "text/plain"), EqualFold(t, "text/*"):
			return typeText
		case EqualFold(t, "application/json"), EqualFold(t, "application/problem+json"), t == "*/*", EqualFold(t, "application/*"):
			return typeProblem
		}
	}
	return typeProblem
}

func appendHTML(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '<':
			b = append(b, "&lt;"...)
		case '>':
			b = append(b, "&gt;"...)
		case '&':
			b = append(b, "&amp;"...)
		case '"':
			b = append(b, "&quot;"...)
		default:
			b = append(b, c)
		}
	}
	return b
}
