package gateway

import (
	"errors"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// The problems that the gateway itself finds. Codes are stable.
var (
	notConfigured = exchange.Problem{
		Status: 503, Code: "not_configured", Side: exchange.SideGateway, Retry: time.Second,
		Detail: "The gateway has no configuration yet.",
	}
	noRoute = exchange.Problem{
		Status: 404, Code: "no_route", Side: exchange.SideClient,
		Detail: "No route matches this host, path and method.",
	}
	badPath = exchange.Problem{
		Status: 400, Code: "bad_path", Side: exchange.SideClient,
		Detail: "The path of the request is not valid.",
	}
	noHost = exchange.Problem{
		Status: 400, Code: "no_host", Side: exchange.SideClient,
		Detail: "The request names no host to be redirected to.",
	}
	bodyTooLarge = exchange.Problem{
		Status: 413, Code: "body_too_large", Side: exchange.SideClient, Close: true,
		Detail: "The request body is larger than a policy of this route can examine.",
	}
	bodyBroken = exchange.Problem{
		Status: 400, Code: "body_incomplete", Side: exchange.SideClient, Close: true,
		Detail: "The request body could not be read to its end.",
	}
	answerTooLarge = exchange.Problem{
		Status: 502, Code: "answer_too_large", Side: exchange.SideUpstream,
		Detail: "The answer is larger than a policy of this route can examine.",
	}
	answerCut = exchange.Problem{
		Status: 502, Code: "answer_cut", Side: exchange.SideUpstream,
		Detail: "The answer of the upstream broke off.",
	}
	clientGone = exchange.Problem{
		Status: exchange.StatusClientGone, Code: "client_gone", Side: exchange.SideClient,
		Detail: "The client closed the connection.",
	}
	noPassage = exchange.Problem{
		Status: 404, Code: "no_route", Side: exchange.SideClient,
		Detail: "No route takes connections for this name.",
	}
	passageBroke = exchange.Problem{
		Status: 502, Code: "connection_broke", Side: exchange.SideUpstream,
		Detail: "A connection that was passed on broke.",
	}
	noAnswer = exchange.Problem{
		Status: 500, Code: "internal_error", Side: exchange.SideGateway,
		Detail: "The gateway met an error of its own.", Cause: errors.New("a policy stopped the request without an answer"),
	}
	internalError = exchange.Problem{
		Status: 500, Code: "internal_error", Side: exchange.SideGateway,
		Detail: "The gateway met an error of its own.",
	}
)

func methodNotAllowed(allow []string) *exchange.Problem {
	return &exchange.Problem{
		Status: 405, Code: "method_not_allowed", Side: exchange.SideClient,
		Detail: "This resource does not support the method of the request.",
		Fields: []exchange.Field{{Name: "Allow", Value: strings.Join(allow, ", "), Known: exchange.Allow}},
	}
}
