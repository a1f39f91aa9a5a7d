package h2

import "gatehouse.dev/gatehouse/internal/exchange"

// The problems of requests that are refused before a handler sees them, or
// while it reads their body. They end the stream and not the connection.
var (
	malformedRequest = exchange.Problem{
		Status: 400, Code: "malformed_request", Side: exchange.SideClient,
		Detail: "The request is not valid HTTP/2.",
	}
	bodyCut = exchange.Problem{
		Status: 400, Code: "body_cut", Side: exchange.SideClient,
		Detail: "The request body ended before its framing said so.",
	}
	headTooLarge = exchange.Problem{
		Status: 431, Code: "head_too_large", Side: exchange.SideClient,
		Detail: "The header fields of the request are too large or too many.",
	}
	bodyTooLarge = exchange.Problem{
		Status: 413, Code: "body_too_large", Side: exchange.SideClient,
		Detail: "The request body is larger than this gateway takes.",
	}
	bodyTimeout = exchange.Problem{
		Status: 408, Code: "body_timeout", Side: exchange.SideClient,
		Detail: "The request body did not arrive in time.",
	}
	connectRefused = exchange.Problem{
		Status: 501, Code: "connect_refused", Side: exchange.SideClient,
		Detail: "CONNECT is not supported: this is a gateway, not a forward proxy.",
	}
	protocolRefused = exchange.Problem{
		Status: 501, Code: "connect_refused", Side: exchange.SideClient,
		Detail: "The only protocol that CONNECT can ask for is websocket.",
	}
	traceRefused = exchange.Problem{
		Status: 405, Code: "method_not_allowed", Side: exchange.SideClient,
		Detail: "TRACE is not allowed.",
		Fields: []exchange.Field{{Name: "Allow", Value: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", Known: exchange.Allow}},
	}
	expectationFailed = exchange.Problem{
		Status: 417, Code: "expectation_failed", Side: exchange.SideClient,
		Detail: "The only expectation that can be met is 100-continue.",
	}
)
