package config

import (
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/policy"
)

// Balance is how an endpoint is picked: the name of an algorithm, or a mapping.
type Balance struct {
	// The algorithm: round_robin takes turns, random throws dice, least_requests takes the less busy of two, ewma takes that one of two which answers sooner, hash sends what hashes alike to the same endpoint.
	Algorithm string `yaml:"algorithm" enum:"round_robin,random,least_requests,ewma,hash"`
	// What is hashed: "header:NAME", "cookie:NAME", "query:NAME", client for the client's address, or a CEL expression. With it the algorithm is hash.
	Hash string `yaml:"hash" example:"header:X-User"`
	// How much busier than the mean an endpoint may become before its keys go to the next one; only for hash.
	Slack Percent `yaml:"slack" min:"1%" max:"100%"`
	// Share of healthy endpoints, by weight, down to which a priority tier, or the zone of the gateway, keeps its traffic. Below it the rest spills over to the next tier or to other zones.
	SpillBelow Percent `yaml:"spill_below" min:"1%" max:"100%"`
	// Share of healthy endpoints below which health is ignored and all are used, so that a few are not crushed. 0% means never.
	Panic Percent `yaml:"panic"`
}

// algorithms are the names that Balance takes in short form.
func algorithms() []string { return []string{"round_robin", "random", "least_requests", "ewma"} }

// UnmarshalText reads the short form: the name of an algorithm.
func (b *Balance) UnmarshalText(text []byte) error {
	s := string(text)
	if !slices.Contains(algorithms(), s) {
		f := &policy.Fault{Text: quote(s) + " is not one of " + strings.Join(algorithms(), ", ")}
		if c := nearest(s, algorithms()); c != "" {
			f.Hint = "did you mean " + quote(c) + "?"
		} else if s == "hash" || isHash(s) {
			f.Hint = "write { hash: header:X-User }"
		}
		return f
	}
	b.Algorithm = s
	return nil
}

// isHash tells whether s says what to hash.
func isHash(s string) bool {
	what, name, found := strings.Cut(s, ":")
	if !found {
		return s == "client"
	}
	return slices.Contains([]string{"header", "cookie"}, what) && policy.IsToken(name) || what == "query" && name != ""
}

// isExpression tells whether s can only be meant as an expression, which those
// who use it compile.
func isExpression(s string) bool {
	what, _, found := strings.Cut(s, ":")
	return strings.ContainsAny(s, ".([+") && !(found && slices.Contains([]string{"header", "cookie", "query"}, what))
}

// Sticky keeps a client at the endpoint that it came to first, by a signed
// cookie. When the endpoint is gone or not healthy another takes its place.
type Sticky struct {
	// Name of the cookie.
	Cookie string `yaml:"cookie" required:"true" example:"gh_route"`
	// How long the client stays; 0 means as long as its browser is open.
	TTL Duration `yaml:"ttl" max:"8760h"`
	// Key of the signature, the same on every gateway. Without it the key follows from the upstream's name and endpoints: the cookie survives restarts too, but whoever knows the configuration can make one.
	Secret Secret `yaml:"secret"`
	// SameSite attribute of the cookie; none needs https.
	SameSite string `yaml:"same_site" enum:"lax,strict,none"`
	// Path attribute of the cookie.
	Path string `yaml:"path"`
}

// Retry sends a request again when that is safe: the method is listed, nothing
// of the answer has been sent, and the body was held or not begun. Each attempt
// goes to another endpoint while there is one.
type Retry struct {
	// Most attempts for one request, the first one included.
	Attempts int `yaml:"attempts" min:"1" max:"10"`
	// What is worth another attempt: connect, reset (the connection broke before the answer), timeout, malformed, a status from 400 to 599, or a status of gRPC such as UNAVAILABLE, in an answer that is nothing else.
	On StringList `yaml:"on"`
	// Methods that may be sent twice. A connection that cannot be established is passed over for every method, since nothing was sent.
	Methods StringList `yaml:"methods"`
	// Most retries as a share of the requests of the last seconds, so that retries cannot double an outage; a few are allowed in any case.
	Budget Percent `yaml:"budget"`
	// Waiting time before each further attempt: a random part of base, doubled each time up to max.
	Backoff Backoff `yaml:"backoff"`
	// Largest request body that is held for a further attempt, in bytes. Larger ones are sent once. One of unknown length is copied on its way, and can be sent again after it has been sent to its end.
	Body Size `yaml:"body" max:"1MiB"`
	// Longest time for one attempt, from its first byte sent to the head of its answer. 0 means that only the timeouts of the upstream hold.
	TryTimeout Duration `yaml:"try_timeout" max:"24h"`
}

// Backoff is the waiting time between attempts.
type Backoff struct {
	// Longest wait before the second attempt.
	Base Duration `yaml:"base" max:"1m"`
	// Longest wait before any attempt.
	Max Duration `yaml:"max" max:"1m"`
}

// Hedge sends a request a second time while the first still waits for its
// answer. The first answer wins, the other attempt is cancelled. Only requests
// with an idempotent method and without a body are hedged.
type Hedge struct {
	// When the second one is sent: after a duration, or after a percentile of the answers' times, from p50 to p99.
	After string `yaml:"after" example:"p95"`
	// Most hedged requests as a share of all.
	Budget Percent `yaml:"budget"`
}

// Health has every endpoint asked regularly whether it is well. One that is
// not gets no requests.
type Health struct {
	// What is asked: http expects an answer, tcp a connection, grpc the answer SERVING by the health checking protocol of gRPC.
	Type string `yaml:"type" enum:"http,tcp,grpc"`
	// Service whose health grpc asks for. Default: that of the whole server.
	Service string `yaml:"service" example:"shop.v1.Products"`
	// Path that http asks for.
	Path string `yaml:"path" example:"/healthz"`
	// Host field of the question. Default: the endpoint's.
	Host string `yaml:"host"`
	// Port that is asked. Default: the endpoint's.
	Port int `yaml:"port" min:"0" max:"65535"`
	// Time from one check to the next, give or take a fifth.
	Interval Duration `yaml:"interval" min:"100ms" max:"1h"`
	// Longest time for one check.
	Timeout Duration `yaml:"timeout" min:"10ms" max:"10m"`
	// Good checks in a row after which an endpoint is healthy again.
	Healthy int `yaml:"healthy" min:"1" max:"100"`
	// Bad checks in a row after which it is not healthy; the first check of all decides at once.
	Unhealthy int `yaml:"unhealthy" min:"1" max:"100"`
	// Statuses that mean healthy: "200", or a range "200-399".
	Expect StringList `yaml:"expect"`
}

// Outlier ejects endpoints that fail the live traffic, each time for longer.
type Outlier struct {
	// Errors in a row that eject: no connection, no answer or half of one, a status from 500, or a gRPC call that ends with UNKNOWN, INTERNAL, UNAVAILABLE or DATA_LOSS. 0 means that they do not.
	ConsecutiveErrors int `yaml:"consecutive_errors" min:"0" max:"1000000"`
	// Share of errors within the window that ejects. 0% means that it does not.
	ErrorRate Percent `yaml:"error_rate"`
	// How many times slower than the median of the endpoints one must be, on the average of a window, to be ejected. 0 means that slowness does not eject.
	Slower float64 `yaml:"slower" min:"0" max:"1000"`
	// Fewest requests of an endpoint in a window that say anything about it.
	MinRequests int `yaml:"min_requests" min:"1" max:"1000000"`
	// Length of the window.
	Window Duration `yaml:"window" min:"1s" max:"1h"`
	// How long the first ejection lasts; the next ones two, three, four times as long.
	Eject Duration `yaml:"eject" min:"100ms" max:"1h"`
	// Longest ejection.
	EjectMax Duration `yaml:"eject_max" min:"100ms" max:"24h"`
	// Largest share of the endpoints that is ejected at a time, rounded down.
	MaxEjected Percent `yaml:"max_ejected"`
}

// Breaker answers 503 at once while the service as a whole fails, and lets a
// few requests through after a while to see whether it still does.
type Breaker struct {
	// Share of errors within the window that opens the breaker.
	ErrorRate Percent `yaml:"error_rate" min:"1%" max:"100%"`
	// Time to the first byte of an answer from which on it is slow. 0 means that none is.
	Slow Duration `yaml:"slow" max:"24h"`
	// Share of slow answers within the window that opens the breaker.
	SlowRate Percent `yaml:"slow_rate" min:"1%" max:"100%"`
	// Fewest requests in a window that say anything.
	MinRequests int `yaml:"min_requests" min:"1" max:"1000000"`
	// Length of the window.
	Window Duration `yaml:"window" min:"1s" max:"1h"`
	// How long the breaker stays open before it lets probes through.
	Open Duration `yaml:"open" min:"100ms" max:"1h"`
	// Requests that must succeed, one after the other or together, before it closes.
	Probes int `yaml:"probes" min:"1" max:"1000"`
}

// Queue lets requests wait for a place where they would be answered 503. They
// are served in the order they came.
type Queue struct {
	// Most waiting requests; beyond it 503.
	Max int `yaml:"max" min:"1" max:"1000000"`
	// Longest wait; then 503.
	Timeout Duration `yaml:"timeout" min:"1ms" max:"10m"`
	// Groups of consumers whose requests are served before those of others.
	First StringList `yaml:"first" example:"partners"`
}

// Concurrency bounds the requests that an upstream serves at the same time.
type Concurrency struct {
	// Most requests at a time. 0 means no limit.
	Max int `yaml:"max" min:"0" max:"1000000"`
	// Most requests at a time of one endpoint, however many of them share a connection. An endpoint that has them is passed over. 0 means no limit.
	PerEndpoint int `yaml:"per_endpoint" min:"0" max:"1000000"`
	// Find the limit by watching the answers' times: it sinks while they grow, and rises while they do not.
	Adaptive bool `yaml:"adaptive"`
	// The lowest limit that is tried, when adaptive.
	Min int `yaml:"min" min:"1" max:"1000000"`
}

// Discovery finds endpoints by itself. Exactly one of dns, srv, file, consul
// and kubernetes is set. While it fails, or finds nothing, what it found last
// stays in use.
type Discovery struct {
	// Name and port whose A and AAAA records are endpoints.
	DNS string `yaml:"dns" example:"products.internal:8080"`
	// Name whose SRV records are endpoints: host, port, weight, and the lower priority first.
	SRV string `yaml:"srv" example:"_http._tcp.products.internal"`
	// File with a list of endpoints in the form of endpoints:, without variables of the environment, read again when it changes.
	File string `yaml:"file" file:"true" example:"endpoints.yaml"`
	// A service in a Consul catalog; its passing instances are endpoints.
	Consul *Consul `yaml:"consul"`
	// A service in Kubernetes; its ready addresses are endpoints.
	Kubernetes *Kubernetes `yaml:"kubernetes"`
	// Time from one look to the next, for dns, srv and file. Records that are good for a shorter time are looked up as soon as they are not, once a second at most.
	Interval Duration `yaml:"interval" min:"100ms" max:"24h"`
	// Scheme of the endpoints found.
	Scheme string `yaml:"scheme" enum:"http,https,h2c,grpc,grpcs"`
	// Take an empty answer for what it says: no endpoint is left.
	AllowEmpty bool `yaml:"allow_empty"`
	// Use loopback and link-local addresses, which include those of cloud metadata services. Otherwise they are refused.
	AllowLocal bool `yaml:"allow_local"`
}

// Consul names a service in a Consul catalog.
type Consul struct {
	// URL of the agent.
	Address string `yaml:"address"`
	// Name of the service.
	Service string `yaml:"service" required:"true" example:"products"`
	// Tag that instances must have.
	Tag string `yaml:"tag"`
	// Datacenter. Default: the agent's.
	Datacenter string `yaml:"datacenter"`
	// Token for the agent.
	Token Secret `yaml:"token"`
}

// Kubernetes names a service in Kubernetes.
type Kubernetes struct {
	// Namespace of the service.
	Namespace string `yaml:"namespace"`
	// Name of the service.
	Service string `yaml:"service" required:"true" example:"products"`
	// Name or number of the port. Default: the only one.
	Port string `yaml:"port" example:"http"`
	// URL of the API server. Default: that of the cluster the gateway runs in.
	API string `yaml:"api"`
	// File with the token. Default: that of the pod's service account.
	TokenFile string `yaml:"token_file" file:"true"`
	// File with the certificates of the API's authority. Default: that of the pod's service account.
	CAFile string `yaml:"ca_file" file:"true"`
}

// Mirror sends copies of requests to another upstream, as they go to their own:
// without credentials and cookies, without waiting, and only those whose body
// has at most 64 KiB and a known length.
type Mirror struct {
	// Name of an upstream, or a URL.
	Upstream string `yaml:"upstream" required:"true" example:"checkout-shadow"`
	// Share of the requests that is copied.
	Sample Percent `yaml:"sample"`
}

// Key names all settings of an upstream, values of secrets and the zone
// included: live objects may be kept under it.
func (u *Upstream) Key() string { return u.Zone + " " + digestOf(u) }
