package headers

import (
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

var (
	_ policy.OnRequest  = (*editor)(nil)
	_ policy.OnResponse = (*editor)(nil)
)

// editor applies its changes to every exchange.
type editor struct{ request, response changes }

func (e *editor) Request(x *exchange.Exchange) policy.Verdict {
	e.request.apply(&x.Request.Header)
	return policy.Next
}

func (e *editor) Response(x *exchange.Exchange) { e.response.apply(&x.Response.Header) }

type op uint8

const (
	remove op = iota
	set
	add
)

type change struct {
	op    op
	field exchange.Field
}

type changes []change

func (list changes) apply(h *exchange.Header) {
	for i := range list {
		switch c := &list[i]; c.op {
		case remove:
			h.Del(c.field.Name)
		case set:
			h.Set(c.field.Name, c.field.Value)
		case add:
			h.Append(c.field)
		}
	}
}
