package h1

import (
	"errors"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// The problems of requests that are refused before a handler sees them, or
// while it reads their body. After each the connection is closed: where the
// next request would begin is not certain.
var (
	malformedRequest = exchange.Problem{
		Status: 400, Code: "malformed_request", Side: exchange.SideClient, Close: true,
		Detail: "The request is not valid HTTP/1.1.",
	}
	malformedBody = exchange.Problem{
		Status: 400, Code: "malformed_body", Side: exchange.SideClient, Close: true,
		Detail: "The framing of the request body is not valid HTTP/1.1.",
	}
	bodyCut = exchange.Problem{
		Status: 400, Code: "body_cut", Side: exchange.SideClient, Close: true,
		Detail: "The request body ended before its framing said so.",
	}
	headTooLarge = exchange.Problem{
		Status: 431, Code: "head_too_large", Side: exchange.SideClient, Close: true,
		Detail: "The header fields of the request are too large or too many.",
	}
	targetTooLong = exchange.Problem{
		Status: 414, Code: "target_too_long", Side: exchange.SideClient, Close: true,
		Detail: "The target of the request is too long.",
	}
	bodyTooLarge = exchange.Problem{
		Status: 413, Code: "body_too_large", Side: exchange.SideClient, Close: true,
		Detail: "The request body is larger than this gateway takes.",
	}
	headTimeout = exchange.Problem{
		Status: 408, Code: "head_timeout", Side: exchange.SideClient, Close: true,
		Detail: "The head of the request did not arrive in time.",
	}
	bodyTimeout = exchange.Problem{
		Status: 408, Code: "body_timeout", Side: exchange.SideClient, Close: true,
		Detail: "The request body did not arrive in time.",
	}
	versionUnsupported = exchange.Problem{
		Status: 505, Code: "version_unsupported", Side: exchange.SideClient, Close: true,
		Detail: "This connection speaks HTTP/1.1 and HTTP/1.0.",
	}
	connectRefused = exchange.Problem{
		Status: 501, Code: "connect_refused", Side: exchange.SideClient, Close: true,
		Detail: "CONNECT is not supported: this is a gateway, not a forward proxy.",
	}
	traceRefused = exchange.Problem{
		Status: 405, Code: "method_not_allowed", Side: exchange.SideClient, Close: true,
		Detail: "TRACE is not allowed.",
		Fields: []exchange.Field{{Name: "Allow", Value: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", Known: exchange.Allow}},
	}
	expectationFailed = exchange.Problem{
		Status: 417, Code: "expectation_failed", Side: exchange.SideClient, Close: true,
		Detail: "The only expectation that can be met is 100-continue.",
	}
	codingUnsupported = exchange.Problem{
		Status: 501, Code: "coding_unsupported", Side: exchange.SideClient, Close: true,
		Detail: "The only transfer coding that is understood is chunked.",
	}
)

// refusal returns the problem that an error of the grammar means for a
// request.
func refusal(err error) *exchange.Problem {
	switch {
	case errors.Is(err, ErrTooManyFields):
		return headTooLarge.With(err)
	case errors.Is(err, errCoding):
		return codingUnsupported.With(err)
	}
	return malformedRequest.With(err)
}
