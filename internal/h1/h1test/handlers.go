package h1test

import (
	"errors"
	"io"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Finish writes x.Response as gateway does.
func Finish(x *exchange.Exchange) {
	if x.Problem != nil {
		x.Render()
	}
	if err := x.Down.WriteHead(x); err != nil {
		x.Down.Abort()
		return
	}
	x.Response.HeadSent = true
	readErr, writeErr := x.Down.WriteFrom(x)
	if readErr != nil || writeErr != nil {
		x.Down.Abort()
		return
	}
	if err := x.Down.Finish(x); err != nil {
		x.Down.Abort()
	}
}

// Reply answers 200 with a body.
func Reply(x *exchange.Exchange, body string) {
	x.Response.Status = 200
	x.Response.SetBody([]byte(body))
	Finish(x)
}

// ReadBody reads the request's body, or fails the exchange.
func ReadBody(x *exchange.Exchange) (string, bool) {
	var all []byte
	for {
		p, err := x.Request.Body.Next()
		if err == io.EOF {
			return string(all), true
		}
		if err != nil {
			var problem *exchange.Problem
			if !errors.As(err, &problem) {
				problem = &exchange.Problem{Status: exchange.StatusClientGone, Cause: err}
			}
			x.Fail(problem)
			return "", false
		}
		all = append(all, p...)
	}
}

// Echo answers with the request's body.
func Echo(x *exchange.Exchange) {
	if body, ok := ReadBody(x); ok {
		Reply(x, body)
	} else {
		Finish(x)
	}
}

// FieldText writes fields a line each.
func FieldText(h *exchange.Header) string {
	var b strings.Builder
	for name, value := range h.All() {
		b.WriteString(name + ": " + value + "\n")
	}
	return b.String()
}
