// Package all is the ordered list of the kinds of policies. It has no logic.
package all

import (
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/accesslog"
	"gatehouse.dev/gatehouse/internal/policy/allof"
	"gatehouse.dev/gatehouse/internal/policy/anyof"
	"gatehouse.dev/gatehouse/internal/policy/apikey"
	"gatehouse.dev/gatehouse/internal/policy/basic"
	"gatehouse.dev/gatehouse/internal/policy/forwardauth"
	"gatehouse.dev/gatehouse/internal/policy/headers"
	"gatehouse.dev/gatehouse/internal/policy/introspect"
	"gatehouse.dev/gatehouse/internal/policy/jwks"
	"gatehouse.dev/gatehouse/internal/policy/jwt"
	"gatehouse.dev/gatehouse/internal/policy/mtls"
	"gatehouse.dev/gatehouse/internal/policy/requestid"
	"gatehouse.dev/gatehouse/internal/policy/signature"
	"gatehouse.dev/gatehouse/internal/policy/upstreamauth"
)

// Catalog returns every kind. Within a stage, request and done steps run in
// this order and response steps in the opposite one.
func Catalog() *policy.Catalog {
	return policy.NewCatalog(
		// edge
		requestid.Kind(), // first: whatever refuses a request after it names the same id
		jwks.Kind(),      // public keys are for anybody, whoever asks

		// identify: each that stands in a plan has to prove who asks, so that
		// the order decides only who is asked first
		mtls.Kind(),       // what the connection has proved already
		apikey.Kind(),     // a look-up is the cheapest refusal
		jwt.Kind(),        // then a signature
		signature.Kind(),  // which wants the whole body
		introspect.Kind(), // these ask somebody else
		forwardauth.Kind(),
		basic.Kind(), // last what takes milliseconds
		allof.Kind(), // made of those above
		anyof.Kind(),

		// transform
		headers.Kind(),      // what goes on is changed when everything has been decided
		upstreamauth.Kind(), // last: it signs what goes on, and nothing may change its credential

		// report
		accesslog.Kind(), // last: it tells what all others did
	)
}
