// Package requestid is the policy that shows a request's id to the upstream
// and to the client. It owns which ids of others are believed. It refuses to
// log: the access log, and problems, tell the same id by themselves.
package requestid

import (
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "request_id".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "request_id", Stage: policy.Edge,
		New: func() policy.Config { return &Config{Header: "X-Request-Id", Trust: "proxies"} },
		Doc: "Gives every request an id, and shows it to the upstream and to the client.",
	}
}

// Config says how the id is shown, and whose is kept.
type Config struct {
	// Field that carries the id, in the request and in the answer.
	Header string `yaml:"header"`
	// Whose ids are kept when a request comes with one: those of the listener's trusted proxies, of anyone, or of nobody. An id that is not kept, or is not one of 1 to 128 letters, digits and "-._~:=+/", is replaced by a new one.
	Trust string `yaml:"trust" enum:"proxies,anyone,nobody"`
}

// Compile checks the name of the field.
func (c *Config) Compile(*policy.Env) (policy.Policy, error) {
	if f := policy.CheckField(c.Header); f != nil {
		f.Field = "header"
		return nil, f
	}
	return &stamp{header: c.Header, proxies: c.Trust == "proxies", anyone: c.Trust == "anyone"}, nil
}

var (
	_ policy.OnRequest  = (*stamp)(nil)
	_ policy.OnResponse = (*stamp)(nil)
)

// stamp gives exchanges their ids.
type stamp struct {
	header          string
	proxies, anyone bool // whose ids are kept
}

func (s *stamp) Request(x *exchange.Exchange) policy.Verdict {
	h := &x.Request.Header
	if s.anyone || s.proxies && x.Client.Trusted {
		if id, ok := only(h, s.header); ok && valid(id) {
			x.SetRequestID(id)
		}
	}
	h.Set(s.header, x.RequestID())
	return policy.Next
}

func (s *stamp) Response(x *exchange.Exchange) { x.Response.Header.Set(s.header, x.RequestID()) }

// only returns the value of a field that stands on exactly one line: of
// several nobody could say which one is meant.
func only(h *exchange.Header, name string) (value string, ok bool) {
	for v := range h.Values(name) {
		if ok {
			return "", false
		}
		value, ok = v, true
	}
	return value, ok
}

// longest bounds an id that others chose, in bytes. A UUID has 36, a trace id
// 32.
const longest = 128

// valid reports whether an id is safe wherever ids are shown: log lines,
// problems, pages.
func valid(id string) bool {
	if id == "" || len(id) > longest {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case c == '-', c == '.', c == '_', c == '~', c == ':', c == '=', c == '+', c == '/':
		default:
			return false
		}
	}
	return true
}
