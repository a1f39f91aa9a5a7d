// Package all is the ordered list of the kinds of policies. It has no logic.
package all

import (
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/accesslog"
	"gatehouse.dev/gatehouse/internal/policy/allof"
	"gatehouse.dev/gatehouse/internal/policy/anyof"
	"gatehouse.dev/gatehouse/internal/policy/apikey"
	"gatehouse.dev/gatehouse/internal/policy/authorize"
	"gatehouse.dev/gatehouse/internal/policy/basic"
	"gatehouse.dev/gatehouse/internal/policy/bodylimit"
	"gatehouse.dev/gatehouse/internal/policy/bot"
	"gatehouse.dev/gatehouse/internal/policy/concurrency"
	"gatehouse.dev/gatehouse/internal/policy/cors"
	"gatehouse.dev/gatehouse/internal/policy/csrf"
	"gatehouse.dev/gatehouse/internal/policy/extauthz"
	"gatehouse.dev/gatehouse/internal/policy/fault"
	"gatehouse.dev/gatehouse/internal/policy/forwardauth"
	"gatehouse.dev/gatehouse/internal/policy/grpcweb"
	"gatehouse.dev/gatehouse/internal/policy/headers"
	"gatehouse.dev/gatehouse/internal/policy/idempotency"
	"gatehouse.dev/gatehouse/internal/policy/introspect"
	"gatehouse.dev/gatehouse/internal/policy/ip"
	"gatehouse.dev/gatehouse/internal/policy/jwks"
	"gatehouse.dev/gatehouse/internal/policy/jwt"
	"gatehouse.dev/gatehouse/internal/policy/ldap"
	"gatehouse.dev/gatehouse/internal/policy/mtls"
	"gatehouse.dev/gatehouse/internal/policy/oidc"
	"gatehouse.dev/gatehouse/internal/policy/opa"
	"gatehouse.dev/gatehouse/internal/policy/quota"
	"gatehouse.dev/gatehouse/internal/policy/ratelimit"
	"gatehouse.dev/gatehouse/internal/policy/requestid"
	"gatehouse.dev/gatehouse/internal/policy/securityheaders"
	"gatehouse.dev/gatehouse/internal/policy/shed"
	"gatehouse.dev/gatehouse/internal/policy/signature"
	"gatehouse.dev/gatehouse/internal/policy/spike"
	"gatehouse.dev/gatehouse/internal/policy/upstreamauth"
	"gatehouse.dev/gatehouse/internal/policy/websocket"
)

// Catalog returns every kind. Within a stage, request and done steps run in
// this order and response steps in the opposite one.
func Catalog() *policy.Catalog {
	return policy.NewCatalog(
		// edge
		requestid.Kind(),       // first: whatever refuses a request after it names the same id
		securityheaders.Kind(), // its fields are on every answer, also on those of what refuses
		shed.Kind(),            // before anything is done for a request that cannot be served
		ip.Kind(),              // whom we do not talk to gets nothing else
		cors.Kind(),            // a page may read why it was refused, and preflights are not counted
		bot.Kind(),             // before it costs a place in somebody's limit
		csrf.Kind(),            // a cheap look at two fields
		bodylimit.Kind(),       // by the announced length, before a byte is read
		jwks.Kind(),            // public keys are for anybody, whoever asks

		// identify: each that stands in a plan has to prove who asks, so that
		// the order decides only who is asked first
		mtls.Kind(),       // what the connection has proved already
		apikey.Kind(),     // a look-up is the cheapest refusal
		jwt.Kind(),        // then a signature
		signature.Kind(),  // which wants the whole body
		introspect.Kind(), // these ask somebody else
		forwardauth.Kind(),
		basic.Kind(), // last what takes milliseconds
		ldap.Kind(),
		oidc.Kind(),  // who has nothing else is asked to sign in
		allof.Kind(), // made of those above
		anyof.Kind(),

		// authorize
		authorize.Kind(), // decided here, before anybody else is asked
		opa.Kind(),       // costs a call, most often to this machine
		extauthz.Kind(),  // costs a call

		// admit
		ratelimit.Kind(),   // at the edge where it counts by client: a flood is turned away before anything is done for it
		quota.Kind(),       // what is refused for this moment uses up nothing for the month
		concurrency.Kind(), // what is refused by number takes no place
		spike.Kind(),       // what has a place may wait
		idempotency.Kind(), // what was refused was not carried out
		websocket.Kind(),   // limits of what begins when a request is let through

		// transform
		grpcweb.Kind(),      // before fields are changed: they are then those of gRPC
		headers.Kind(),      // what goes on is changed when everything has been decided
		fault.Kind(),        // what is aborted needs no credential
		upstreamauth.Kind(), // last: it signs what goes on, and nothing may change its credential

		// report
		accesslog.Kind(), // last: it tells what all others did
	)
}
