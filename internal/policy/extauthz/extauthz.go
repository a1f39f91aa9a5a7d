// Package extauthz is the policy that asks an outside service whether a request
// may pass, by Envoy's ext_authz protocol over gRPC, so that services written
// for it work unchanged. It owns what such a service is shown and what it may
// change. A service that is down, slow or odd means a refusal, unless the
// configuration says otherwise.
package extauthz

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"gatehouse.dev/gatehouse/internal/decision"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "ext_authz".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "ext_authz", Stage: policy.Authorize,
		New: func() policy.Config {
			return &Config{Timeout: policy.Duration(200 * time.Millisecond), CacheEntries: 10_000}
		},
		Doc: "Asks an outside service by Envoy's ext_authz protocol whether a request may pass.",
	}
}

// Config says whom to ask, what to show, and what the answer may change.
type Config struct {
	// The service: grpc://host:port, or grpcs:// for TLS.
	URL string `yaml:"url" required:"true" example:"grpc://127.0.0.1:9191"`
	// Certificates of the authorities that are believed, PEM. Default: the system's.
	CAFile string `yaml:"ca_file" file:"true"`
	// How long to wait for a decision.
	Timeout policy.Duration `yaml:"timeout" min:"1ms" max:"1m"`
	// Let requests pass while the service does not answer. Otherwise they are answered 503.
	FailOpen bool `yaml:"fail_open"`
	// Request fields that are shown. Default: all of them.
	Headers policy.StringList `yaml:"headers" example:"Authorization"`
	// Largest body in bytes that is shown, as a whole; a larger one is answered 413. 0 shows none.
	Body policy.Size `yaml:"body" max:"16MiB"`
	// Request fields that the service may set. They are taken off what the client sends, whatever the service says.
	Sets policy.StringList `yaml:"sets" example:"X-User"`
	// Fields of the answer to the client that the service may set.
	Answers policy.StringList `yaml:"answers" example:"X-Decision"`
	// Further values that are shown, as context extensions.
	Context map[string]string `yaml:"context"`
	// How long a decision is remembered for requests that are shown the same. 0 is not at all. It needs headers to name what is shown.
	CacheTTL policy.Duration `yaml:"cache_ttl" max:"1h"`
	// Decisions that are remembered at most.
	CacheEntries int `yaml:"cache_entries" min:"2" max:"1000000"`
	// Only log what would be refused.
	DryRun bool `yaml:"dry_run"`
}

// Repeatable says that the services of all levels are asked.
func (*Config) Repeatable() {}

// Compile finds the live connection. It is made when it is first needed.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	var faults []error
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: field, Text: text, Hint: hint})
	}
	names := func(key string, list []string) []string {
		out := make([]string, len(list))
		for i, name := range list {
			if f := policy.CheckField(name); f != nil {
				fault(fmt.Sprintf("%s[%d]", key, i), f.Text, f.Hint)
			}
			out[i] = strings.ToLower(name)
		}
		return out
	}
	a := &asker{
		url: c.URL, timeout: c.Timeout.D(), open: c.FailOpen, body: int64(c.Body), context: c.Context, tell: policy.NewTeller(env), dryRun: c.DryRun,
		headers: names("headers", c.Headers), sets: names("sets", c.Sets), answers: names("answers", c.Answers),
		slot: policy.NewSlot[state](env),
	}
	for i, name := range a.sets {
		if slices.Contains([]string{"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "forwarded", "x-real-ip"}, name) {
			fault(fmt.Sprintf("sets[%d]", i), fmt.Sprintf("%q is asserted by the gateway", name), "remove it")
		}
	}
	target, err := url.Parse(c.URL)
	if err != nil || target.Scheme != "grpc" && target.Scheme != "grpcs" || target.Host == "" || target.Port() == "" || target.Path != "" || target.RawQuery != "" || target.User != nil {
		fault("url", fmt.Sprintf("%q is not the URL of a gRPC service", c.URL), "write grpc://host:port or grpcs://host:port")
	}
	if c.CAFile != "" && !strings.HasPrefix(c.URL, "grpcs:") {
		fault("ca_file", "there is no TLS to a grpc:// service", "write grpcs://, or remove it")
	}
	if c.CacheTTL > 0 && len(c.Headers) == 0 {
		fault("cache_ttl", "a decision made from all fields is never asked for again", "name in headers what it is made from")
	}
	if c.CacheTTL > 0 && c.Body > 0 {
		fault("cache_ttl", "a decision made from a body is not remembered", "remove one of the two")
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	var pool *x509.CertPool
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, &policy.Fault{Field: "ca_file", Text: fmt.Sprintf("%q cannot be read: %v", c.CAFile, errors.Unwrap(err))}
		}
		if pool = x509.NewCertPool(); !pool.AppendCertsFromPEM(pem) {
			return nil, &policy.Fault{Field: "ca_file", Text: fmt.Sprintf("%q holds no certificate", c.CAFile)}
		}
	}
	made := env.Keep("connection "+c.URL+" "+c.CAFile, func() any { return dial(target, pool) })
	link, ok := made.(*connection)
	if !ok {
		return nil, &policy.Fault{Field: "url", Text: fmt.Sprintf("%q: %v", c.URL, made)}
	}
	a.client = auth.NewAuthorizationClient(link.ClientConn)
	if c.CacheTTL > 0 {
		kept := fmt.Sprintf("cache %s %s %s %v %v %d", c.URL, c.CacheTTL, strings.Join(a.headers, ","), a.sets, a.context, c.CacheEntries)
		a.cache = env.Keep(kept, func() any { return decision.New[*verdict](c.CacheEntries, c.CacheTTL.D()) }).(*decision.Cache[*verdict])
	}
	return a, nil
}

// connection is closed when no configuration asks for it any more.
type connection struct{ *grpc.ClientConn }

// Retire closes the connection. Calls of older snapshots fail, and are refused.
func (c *connection) Retire() { _ = c.Close() }

// largestAnswer bounds what a service may say, in bytes.
const largestAnswer = 256 << 10

func dial(target *url.URL, pool *x509.CertPool) any {
	secure := insecure.NewCredentials()
	if target.Scheme == "grpcs" {
		secure = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool})
	}
	conn, err := grpc.NewClient("dns:///"+target.Host,
		grpc.WithTransportCredentials(secure), grpc.WithUserAgent("gatehouse"), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largestAnswer)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}, MinConnectTimeout: time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		return err
	}
	return &connection{conn}
}

var refused = exchange.Problem{
	Status: 403, Code: "ext_authz_denied", Side: exchange.SideClient,
	Detail: "You may not make this request.",
}

var unavailable = exchange.Problem{
	Status: 503, Code: "ext_authz_unavailable", Side: exchange.SideGateway, Retry: time.Second,
	Detail: "Nobody can decide at present whether you may make this request.",
}
