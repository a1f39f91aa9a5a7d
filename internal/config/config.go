// Package config owns the configuration language: its structs, their strict
// decoding with positions, their defaults, and the faults of a value taken by
// itself. It does no work: what a config means is decided by gateway.Compile.
package config

import (
	"net/netip"

	"gatehouse.dev/gatehouse/internal/policy"
)

// Config is a whole configuration.
//
// Nothing writes to it once it is decoded.
//
// The tags of the structs are the rules of the language: yaml is the key,
// required the keys that must be there, enum the values that a field takes,
// min and max its range, both included, file the paths, which begin at the
// folder of the file that names them, example a value to show. The comments are
// its reference.
type Config struct {
	// Addresses to listen on. Without any, one plain listener on ":8080".
	Listeners []*Listener `yaml:"listeners"`
	// Services behind the gateway, by name.
	Upstreams map[string]*Upstream `yaml:"upstreams"`
	// Who calls, and what proves it.
	Consumers []*Consumer `yaml:"consumers"`
	// What holds for the consumers of a group, by its name.
	Groups map[string]*Group `yaml:"groups"`
	// Policies of every route.
	Policies []*Policy `yaml:"policies"`
	// What to do with which request. "routes: []" says that there are none; to leave them out is a fault, since a file that was cut short looks like that.
	Routes []*Route `yaml:"routes"`
	// Where this gateway runs; endpoints in the same zone come first.
	Zone string `yaml:"zone" example:"eu-1"`
	// The administration address, or off.
	Admin *Admin `yaml:"admin"`
	// Logs and metrics.
	Observe Observe `yaml:"observe"`
	// A Redis or Valkey server for what several gateways share.
	Redis *Redis `yaml:"redis"`
	// Folder for what has to outlast a restart, such as how much of a quota was used. It is made where there is none.
	DataFolder string `yaml:"data_folder" file:"true" example:"/var/lib/gatehouse"`
	// How the process stops.
	Shutdown Shutdown `yaml:"shutdown"`

	source  *source // where it came from; nil for one that was made by hand
	partial bool    // what has a fault was left out
}

// Listener is an address that takes connections.
type Listener struct {
	// Name of the listener, for logs, metrics and policies. Default: its address.
	Name string `yaml:"name"`
	// Address to listen on: "host:port", ":port", "[::1]:port" or "unix:/path".
	Address string `yaml:"address" required:"true" example:":8080"`
	// What the listener does with connections: http answers requests; tcp passes each connection to the upstream; tls passes TLS connections on unopened, to the upstream that routes finds by the name that the client asks for.
	Protocol string `yaml:"protocol" enum:"http,tcp,tls"`
	// Versions of HTTP: http1; http2 and http3, which need tls; h2c, which is HTTP/2 without it. Default: http1, and http2 over TLS.
	Protocols StringList `yaml:"protocols" enum:"http1,http2,http3,h2c"`
	// TLS on this listener. Without it the listener is plain.
	TLS *TLS `yaml:"tls"`
	// Answer every request with 308 to the same URL on the first listener with TLS.
	RedirectHTTPS bool `yaml:"redirect_https"`
	// Connections begin with a PROXY header, version 1 or 2, that names the client. It is believed of trusted_proxies; connections of others, or without it, are closed.
	ProxyProtocol bool `yaml:"proxy_protocol"`
	// Where connections go: the name of an upstream with tcp endpoints, or a URL tcp://host:port. For protocol tcp, and for protocol tls what no route takes; without it those are closed.
	Upstream string `yaml:"upstream" example:"tcp://10.0.0.5:5432"`
	// Where connections go by the name that the client asks for. For protocol tls.
	Routes []*SNIRoute `yaml:"routes"`
	// The HTTP engine: native is the gateway's own; std is Go's net/http for http1 and http3, slower, without HTTP/2, kept as a safety valve.
	Engine string `yaml:"engine" enum:"native,std"`
	// Peers whose X-Forwarded-* and Forwarded fields are believed. Default: nobody.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies" example:"10.0.0.0/8"`
	// Ceilings for what a client may send and how slowly.
	Limits Limits `yaml:"limits"`
	// Policies of every route on this listener.
	Policies []*Policy `yaml:"policies"`
}

// Limits are the ceilings of one listener.
type Limits struct {
	// Largest request head in bytes, request line included; above it 431, or 414 when the target alone is too long.
	HeaderBytes Size `yaml:"header_bytes" min:"1KiB" max:"1MiB"`
	// Most field lines in a request head or trailer; above it 431.
	Headers int `yaml:"headers" min:"1" max:"10000"`
	// Largest request body in bytes; above it 413. 0 means no limit.
	Body Size `yaml:"body" max:"1TiB"`
	// Longest time from the first byte of a request to the end of its head; then 408.
	HeaderTimeout Duration `yaml:"header_timeout" min:"100ms" max:"1h"`
	// Longest time that a connection may be idle between requests, that reading a body or writing an answer may make no progress, and that a connection which is passed on may be silent.
	IdleTimeout Duration `yaml:"idle_timeout" min:"100ms" max:"24h"`
	// Requests in flight at once on one connection of HTTP/2 or HTTP/3; more are refused until others end.
	Streams int `yaml:"streams" min:"1" max:"10000"`
	// Slowest pace at which a client may send a body, measured after its first 5 seconds; then 408. 0 means no limit.
	BodyMinRate Rate `yaml:"body_min_rate"`
	// Requests on one connection before it is closed. 0 means no limit.
	RequestsPerConnection int `yaml:"requests_per_connection" min:"0" max:"1000000000"`
	// Connections open at once on the listener; more wait to be accepted. 0 means no limit.
	Connections int `yaml:"connections" min:"0" max:"10000000"`
	// How long a client that closed its sending half may still wait for the answer before it is taken to have gone.
	HalfCloseTimeout Duration `yaml:"half_close_timeout" max:"24h"`
}

// Upstream is a service behind the gateway.
type Upstream struct {
	// Where the service runs.
	Endpoints []*Endpoint `yaml:"endpoints"`
	// Where to find further endpoints.
	Discovery *Discovery `yaml:"discovery"`
	// How an endpoint is picked.
	Balance Balance `yaml:"balance"`
	// Keep clients at their endpoint by a cookie.
	Sticky *Sticky `yaml:"sticky"`
	// Pools of connections.
	Connections Connections `yaml:"connections"`
	// How long to wait for the service.
	Timeout Timeout `yaml:"timeout"`
	// Send requests again that failed.
	Retry *Retry `yaml:"retry"`
	// Send slow requests a second time.
	Hedge *Hedge `yaml:"hedge"`
	// Ask endpoints whether they are well.
	Health *Health `yaml:"health"`
	// Eject endpoints that fail the live traffic.
	Outlier *Outlier `yaml:"outlier"`
	// Answer at once while the service fails.
	Breaker *Breaker `yaml:"breaker"`
	// Time over which an endpoint that is new, or well again, comes to its full share. 0 means at once.
	SlowStart Duration `yaml:"slow_start" max:"1h"`
	// Let requests wait for a place.
	Queue *Queue `yaml:"queue"`
	// Bound the requests at a time.
	Concurrency *Concurrency `yaml:"concurrency"`
	// TLS to https and grpcs endpoints.
	TLS *UpstreamTLS `yaml:"tls"`
	// Begin every connection with a PROXY header of this version, which names the client. A connection then serves one request of one client, and none is kept.
	ProxyProtocol string `yaml:"proxy_protocol" enum:"off,v1,v2"`
	// Upstream that serves instead while this one can serve nothing: no endpoint is healthy or can be reached, or the breaker is open.
	Failover string `yaml:"failover"`
	// Which Host field the service sees: preserve sends the client's, endpoint the endpoint's own.
	Host string `yaml:"host" enum:"preserve,endpoint"`

	Zone string `yaml:"-"` // the gateway's own
}

// Endpoint is one address of a service: a URL, or a mapping with more about it.
type Endpoint struct {
	// URL of the endpoint: http://host:port or http://unix:/path. It has no path. https speaks TLS, h2c HTTP/2 without it, grpc and grpcs gRPC without and with it, tcp is for listeners with protocol tcp or tls.
	URL string `yaml:"url" required:"true" example:"http://10.0.0.11:8080"`
	// Share of the traffic relative to the other endpoints, 1 to 1000.
	Weight int `yaml:"weight" min:"1" max:"1000"`
	// Where the endpoint runs. Those in the gateway's own zone come first.
	Zone string `yaml:"zone" example:"eu-1"`
	// Tier of the endpoint: 1 is used when too few of tier 0 are healthy, and so on.
	Priority int `yaml:"priority" min:"0" max:"15"`
}

// Connections bounds the pools of an upstream.
type Connections struct {
	// Open connections to all endpoints; a request beyond it is answered 503. 0 means no limit.
	Max int `yaml:"max" min:"0" max:"1000000"`
	// Open connections to one endpoint. 0 means no limit.
	MaxPerEndpoint int `yaml:"max_per_endpoint" min:"0" max:"1000000"`
	// Idle connections kept for each endpoint.
	Idle int `yaml:"idle" min:"0" max:"1000000"`
	// How long an idle connection is kept.
	IdleTimeout Duration `yaml:"idle_timeout" min:"100ms" max:"24h"`
	// Longest time to establish a connection.
	ConnectTimeout Duration `yaml:"connect_timeout" min:"1ms" max:"10m"`
}

// Timeout bounds an exchange with an upstream. 0 means no limit.
type Timeout struct {
	// From the request sent whole to the first byte of the answer; then 504.
	FirstByte Duration `yaml:"first_byte" max:"24h"`
	// The whole exchange, from the first byte sent to the last byte received; then 504 or a cut answer. Upgraded connections are exempt.
	Request Duration `yaml:"request" max:"24h"`
	// Longest time without progress while bodies or upgraded connections flow. Connections that are passed on have idle_timeout of their listener.
	Idle Duration `yaml:"idle" max:"24h"`
	// Field in which the service is told how many milliseconds are left of request. None: it is not told.
	Field string `yaml:"field" example:"X-Timeout-Ms"`
}

// Policy is one entry of a policies list: a mapping with the policy's kind as
// its only key. A policy with nothing to set is written "name: {}".
type Policy = policy.Use

// Route says what to do with the requests that match. Exactly one of upstream,
// split, redirect and respond is set.
type Route struct {
	// Name of the route, for logs and metrics. Default: its match in short form.
	Name string `yaml:"name" example:"products"`
	// Which requests. The short form is a string: "[METHOD[,METHOD]] [host]/path".
	Match *Match `yaml:"match" required:"true" example:"GET shop.example.com/products/*"`
	// Policies of this route.
	Policies []*Policy `yaml:"policies"`
	// Where the requests go: the name of an upstream, or a URL.
	Upstream string `yaml:"upstream" example:"http://127.0.0.1:9001"`
	// Several upstreams that share the requests by weight.
	Split []*Share `yaml:"split"`
	// What keeps a caller in the same part of the split, also while weights change a little: "header:NAME", "cookie:NAME", "query:NAME", client for the client's address, or a CEL expression. A request without it is told apart by its client's address. None: every request is dealt anew.
	SplitBy string `yaml:"split_by" example:"cookie:session"`
	// Another upstream that gets copies of the requests; its answers are thrown away.
	Mirror *Mirror `yaml:"mirror"`
	// How the request is changed before it goes to the upstream.
	Rewrite *Rewrite `yaml:"rewrite"`
	// Answer with a redirection.
	Redirect *Redirect `yaml:"redirect"`
	// Answer with a fixed response.
	Respond *Respond `yaml:"respond"`
}

// Match says which requests a route takes. All that is set must hold.
type Match struct {
	// Hosts, any of which must match: "shop.example.com", or "*.example.com" for one or more labels. None: every host.
	Host StringList `yaml:"host" example:"*.example.com"`
	// Path: exact "/a/b", prefix "/a/*", with parameters "/a/{name}", or "/a/{name...}" for the rest.
	Path string `yaml:"path" example:"/products/{id}"`
	// Calls of a gRPC service, in place of a path.
	GRPC *GRPCMatch `yaml:"grpc"`
	// Path as a regular expression (RE2) that must match all of it. Named groups become parameters.
	PathRegex string `yaml:"path_regex" example:"/v[0-9]+/(?P<rest>.*)"`
	// Methods, any of which must match. None: every method. GET includes HEAD.
	Methods StringList `yaml:"methods" example:"GET"`
	// Header fields that must match.
	Headers map[string]*ValueMatch `yaml:"headers"`
	// Query parameters that must match, after percent-decoding.
	Query map[string]*ValueMatch `yaml:"query"`
	// Cookies that must match.
	Cookies map[string]*ValueMatch `yaml:"cookies"`
	// A CEL expression that must hold. It sees request and client; an error, such as a look at what is absent, means that it does not hold.
	When string `yaml:"when" example:"request.headers[\"x-plan\"] == \"gold\""`
}

// GRPCMatch is a condition on calls of gRPC. It stands for the path
// /service/method.
type GRPCMatch struct {
	// Full name of the service, with its package.
	Service string `yaml:"service" required:"true" example:"shop.v1.Products"`
	// Name of the method. None: every method of the service.
	Method string `yaml:"method" example:"Get"`
}

// ValueMatch is a condition on one value: a string for an exact value, or a
// mapping with exactly one key.
type ValueMatch struct {
	// The exact value.
	Exact *string `yaml:"exact"`
	// A regular expression (RE2) that must match all of the value.
	Regex string `yaml:"regex" example:"[0-9]+"`
	// Whether the value must be there or must not be.
	Present *bool `yaml:"present"`
}

// Share is one part of a split.
type Share struct {
	// Name of an upstream, or a URL.
	Upstream string `yaml:"upstream" required:"true"`
	// Weight relative to the others, 0 to 1000000; 0 takes no requests.
	Weight int `yaml:"weight" min:"0" max:"1000000"`
}

// Rewrite changes the request's target.
type Rewrite struct {
	// Prefix taken off the path, at a segment boundary.
	StripPrefix string `yaml:"strip_prefix" example:"/checkout"`
	// New path; {name} stands for a path parameter, {rest} for what a trailing * matched, {path} for the path after strip_prefix, without its leading slash.
	Path string `yaml:"path" example:"/v2/{path}"`
	// Host field that the upstream sees.
	Host string `yaml:"host" example:"checkout.internal"`
}

// Redirect answers with a redirection.
type Redirect struct {
	// Where to: an absolute URL, or a path on the same host. {name}, {rest}, {path} as in rewrite, {host} for the request's host, {query} for its query.
	To string `yaml:"to" required:"true" example:"/new/{rest}"`
	// Status: 301, 302, 303, 307 or 308.
	Status int `yaml:"status" enum:"301,302,303,307,308"`
}

// Respond answers with a fixed response.
type Respond struct {
	// Status of the answer, 200 to 599.
	Status int `yaml:"status" min:"200" max:"599"`
	// Body of the answer.
	Body string `yaml:"body"`
	// Header fields of the answer.
	Headers map[string]string `yaml:"headers"`
}

// Admin is the administration address. "admin: off" closes it.
type Admin struct {
	// Address to listen on.
	Address string `yaml:"address"`
	// Off is set by the short form "admin: off".
	Off bool `yaml:"-"`
}

// Observe configures what the gateway tells about itself.
type Observe struct {
	// The access log, written by the access_log policy.
	AccessLog AccessLog `yaml:"access_log"`
	// Metrics on the admin address.
	Metrics Metrics `yaml:"metrics"`
	// Events of the gateway itself, on standard error.
	Log Log `yaml:"log"`
}

// AccessLog says where and how access-log lines are written.
type AccessLog struct {
	// json, or combined for the log format of that name.
	Format string `yaml:"format" enum:"json,combined"`
	// stdout, stderr, or the path of a file, which is opened again on SIGHUP; a relative one begins at the folder of the configuration.
	Output string `yaml:"output"`
	// Share of the requests that is written; requests that the gateway or an upstream failed are always written.
	Sample Percent `yaml:"sample"`
}

// Metrics bounds the metrics.
type Metrics struct {
	// Most routes with series of their own; further ones share the series of route "other".
	MaxRoutes int `yaml:"max_routes" min:"1" max:"100000"`
}

// Log configures the gateway's own log.
type Log struct {
	// Lowest level that is written.
	Level string `yaml:"level" enum:"debug,info,warn,error"`
	// text, or json.
	Format string `yaml:"format" enum:"text,json"`
}

// Shutdown configures how the process stops on SIGTERM.
type Shutdown struct {
	// How long requests in flight may take to finish before they are cut.
	Drain Duration `yaml:"drain" max:"24h"`
	// How long /readyz says no before the listeners stop, so that balancers notice.
	Delay Duration `yaml:"delay" max:"1h"`
}
