package upstream

import (
	"errors"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/h2"
	"gatehouse.dev/gatehouse/internal/wire"
)

// The problems of asking a service. Codes are stable.
var (
	connectFailed = exchange.Problem{
		Status: 502, Code: "upstream_connect_failed", Side: exchange.SideUpstream,
		Detail: "The service behind the gateway could not be reached.",
	}
	connectTimeout = exchange.Problem{
		Status: 504, Code: "upstream_connect_timeout", Side: exchange.SideUpstream,
		Detail: "The service behind the gateway could not be reached in time.",
	}
	timedOut = exchange.Problem{
		Status: 504, Code: "upstream_timeout", Side: exchange.SideUpstream,
		Detail: "The service behind the gateway did not answer in time.",
	}
	reset = exchange.Problem{
		Status: 502, Code: "upstream_reset", Side: exchange.SideUpstream,
		Detail: "The service behind the gateway closed the connection before it answered.",
	}
	malformed = exchange.Problem{
		Status: 502, Code: "upstream_malformed", Side: exchange.SideUpstream,
		Detail: "The service behind the gateway sent an answer that is not valid HTTP.",
	}
	unavailable = exchange.Problem{
		Status: 503, Code: "upstream_unavailable", Side: exchange.SideUpstream, Retry: time.Second,
		Detail: "No endpoint of the service behind the gateway is available.",
	}
	broken = exchange.Problem{
		Status: 503, Code: "upstream_breaker_open", Side: exchange.SideUpstream, Retry: time.Second,
		Detail: "The service behind the gateway has been failing and is left alone for a moment.",
	}
	untrusted = exchange.Problem{
		Status: 502, Code: "upstream_tls_failed", Side: exchange.SideUpstream,
		Detail: "A secure connection to the service behind the gateway could not be established.",
	}
	refused = exchange.Problem{
		Status: 503, Code: "upstream_refused", Side: exchange.SideUpstream, Retry: time.Second,
		Detail: "The service behind the gateway refused the request before it acted on it.",
	}
	noTunnel = exchange.Problem{
		Status: 502, Code: "upstream_no_websocket", Side: exchange.SideUpstream,
		Detail: "The service behind the gateway does not take WebSockets over HTTP/2.",
	}
	overloaded = exchange.Problem{
		Status: 503, Code: "upstream_overloaded", Side: exchange.SideGateway, Retry: time.Second,
		Detail: "The service behind the gateway has as many requests as it may have.",
	}
	passageIdle = exchange.Problem{
		Status: 408, Code: "idle_timeout", Side: exchange.SideClient,
		Detail: "The connection was idle, or open, for longer than it may be.",
	}
	requestBroken = exchange.Problem{
		Status: 400, Code: "body_incomplete", Side: exchange.SideClient, Close: true,
		Detail: "The request body could not be read to its end.",
	}
	clientGone = exchange.Problem{
		Status: exchange.StatusClientGone, Code: "client_gone", Side: exchange.SideClient,
		Detail: "The client closed the connection.",
	}
)

// problemOf says what the error of a round trip means for the exchange.
func problemOf(x *exchange.Exchange, err error) *exchange.Problem {
	var bad h1.Malformed
	var bad2 h2.Malformed
	var request *h1.RequestError
	var request2 *h2.RequestError
	var own *exchange.Problem
	if errors.As(err, &request2) {
		request = &h1.RequestError{Err: request2.Err}
	}
	switch {
	case x.Canceled() != nil, errors.Is(err, exchange.ErrClientGone):
		return clientGone.With(err)
	case request != nil || errors.As(err, &request):
		if errors.As(request.Err, &own) {
			return own
		}
		return requestBroken.With(err)
	case errors.As(err, &bad), errors.As(err, &bad2):
		return malformed.With(err)
	case errors.Is(err, wire.ErrTimeout):
		return timedOut.With(err)
	}
	return reset.With(err)
}
