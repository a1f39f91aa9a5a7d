// Package all is the ordered list of the kinds of policies. It has no logic.
package all

import (
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/accesslog"
	"gatehouse.dev/gatehouse/internal/policy/fault"
	"gatehouse.dev/gatehouse/internal/policy/grpcweb"
	"gatehouse.dev/gatehouse/internal/policy/headers"
	"gatehouse.dev/gatehouse/internal/policy/requestid"
	"gatehouse.dev/gatehouse/internal/policy/websocket"
)

// Catalog returns every kind. Within a stage, request and done steps run in
// this order and response steps in the opposite one.
func Catalog() *policy.Catalog {
	return policy.NewCatalog(
		// edge
		requestid.Kind(), // first: whatever refuses a request after it names the same id

		// admit
		websocket.Kind(), // limits of what begins when a request is let through

		// transform
		grpcweb.Kind(), // before fields are changed: they are then those of gRPC
		headers.Kind(), // what goes on is changed when everything has been decided
		fault.Kind(),   // last before the upstream, whose faults it imitates

		// report
		accesslog.Kind(), // last: it tells what all others did
	)
}
