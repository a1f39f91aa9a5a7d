// Package grpcweb is the policy that lets browsers call gRPC services: it turns
// gRPC-Web into gRPC and the answers back, in binary and in text form, message
// by message as they come. It owns that translation. It refuses to look into
// messages, and leaves what other origins may do to the cors policy.
package grpcweb

import (
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "grpc_web".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "grpc_web", Stage: policy.Transform,
		New: func() policy.Config { return new(Config) },
		Doc: "Lets browsers call gRPC services, by translating gRPC-Web.",
	}
}

// Config has nothing to set.
type Config struct{}

// Compile makes the translator.
func (*Config) Compile(env *policy.Env) (policy.Policy, error) {
	return &translator{calls: policy.NewSlot[call](env)}, nil
}

var (
	_ policy.OnRequest  = (*translator)(nil)
	_ policy.OnResponse = (*translator)(nil)
)

// translator is the runtime.
type translator struct{ calls policy.Slot[call] }

// call is what is known of one call of gRPC-Web.
type call struct {
	web  bool
	text bool   // messages are in base64
	kind string // of the messages: "", or "+proto" and the like
}

const (
	typeGRPC = "application/grpc"
	typeWeb  = "application/grpc-web"
	typeText = "application/grpc-web-text"
)

// parse reads a Content-Type.
func parse(value string) (c call) {
	value, _, _ = strings.Cut(value, ";")
	value = strings.ToLower(strings.TrimSpace(value))
	rest, ok := strings.CutPrefix(value, typeWeb)
	if !ok {
		return c
	}
	if after, ok := strings.CutPrefix(rest, "-text"); ok {
		rest, c.text = after, true
	}
	c.web = rest == "" || rest[0] == '+'
	c.kind = rest
	return c
}

// Request makes a call of gRPC of one of gRPC-Web. Others pass.
func (t *translator) Request(x *exchange.Exchange) policy.Verdict {
	c := parse(x.Request.Header.Known(exchange.ContentType))
	if !c.web {
		return policy.Next
	}
	*t.calls.Get(x) = c
	r := &x.Request
	r.Header.SetKnown(exchange.ContentType, typeGRPC+c.kind)
	r.Header.SetKnown(exchange.TE, "trailers")
	r.Header.Del("X-Grpc-Web")
	if c.text {
		r.Body, r.Length = &decoder{body: r.Body}, exchange.Unknown
	}
	return policy.Next
}

// Response makes an answer of gRPC-Web of one of gRPC. One that is something
// else passes as it is.
func (t *translator) Response(x *exchange.Exchange) {
	c := *t.calls.Get(x)
	r := &x.Response
	kind, ok := strings.CutPrefix(r.Header.Known(exchange.ContentType), typeGRPC)
	if !c.web || !ok || strings.HasPrefix(kind, "-web") {
		return
	}
	kind, _, _ = strings.Cut(kind, ";")
	if kind == "" {
		kind = c.kind
	}
	if c.text {
		r.Header.SetKnown(exchange.ContentType, typeText+kind)
	} else {
		r.Header.SetKnown(exchange.ContentType, typeWeb+kind)
	}
	if r.Header.Get("grpc-status") != "" && r.Length == 0 {
		return // all is said in the head, where clients look first
	}
	r.Body, r.Length = &encoder{body: r.Body, x: x, text: c.text}, exchange.Unknown
}
