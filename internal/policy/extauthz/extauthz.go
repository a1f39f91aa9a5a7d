// Package extauthz is the policy that asks an outside service whether a request
// may pass, by Envoy's ext_authz protocol over gRPC, so that services written
// for it work unchanged. It owns the protocol: how a request is put and what the
// answer says. What is shown and what may be changed is that of all decisions.
package extauthz

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
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
	"gatehouse.dev/gatehouse/internal/fetch"
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
	// Let requests pass while the service cannot be reached or does not answer in time. Otherwise they are answered 503, as they are in any case when it answers and does not decide.
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
	target, err := url.Parse(c.URL)
	if err != nil || target.Scheme != "grpc" && target.Scheme != "grpcs" || target.Host == "" || target.Port() == "" || target.Path != "" || target.RawQuery != "" || target.User != nil {
		fault("url", fmt.Sprintf("%q is not the URL of a gRPC service", c.URL), "write grpc://host:port or grpcs://host:port")
	}
	reach := fetch.Settings{Timeout: c.Timeout, CAFile: c.CAFile}
	var trust *tls.Config
	if strings.HasPrefix(c.URL, "grpcs:") {
		if trust, err = reach.TLS(); err != nil {
			faults = append(faults, err)
		}
	} else if c.CAFile != "" {
		fault("ca_file", "there is no TLS to a grpc:// service", "write grpcs://, or remove it")
	}
	service := &asker{url: c.URL, context: c.Context}
	step, err := decision.New(env, decision.Terms{
		Timeout: c.Timeout.D(), FailOpen: c.FailOpen, Headers: c.Headers, Body: int64(c.Body), Sets: c.Sets, Answers: c.Answers,
		CacheTTL: c.CacheTTL.D(), CacheEntries: c.CacheEntries, DryRun: c.DryRun,
		Refused:     exchange.Problem{Status: 403, Code: "ext_authz_denied"},
		Unavailable: exchange.Problem{Status: 503, Code: "ext_authz_unavailable"},
		Source:      fmt.Sprintf("%q %q %q", c.URL, reach.Fingerprint(), c.Context),
	}, service)
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	made := env.Keep("connection "+c.URL+" "+reach.Fingerprint(), func() any { return dial(target, trust, reach.Dialer()) })
	link, ok := made.(*connection)
	if !ok {
		return nil, &policy.Fault{Field: "url", Text: fmt.Sprintf("%q: %v", c.URL, made)}
	}
	service.client = auth.NewAuthorizationClient(link.ClientConn)
	return step, nil
}

// connection is closed when no configuration asks for it any more.
type connection struct{ *grpc.ClientConn }

// Retire closes the connection. Calls of older snapshots fail, and are refused.
func (c *connection) Retire() { _ = c.Close() }

// largestAnswer bounds what a service may say, in bytes.
const largestAnswer = 256 << 10

// dial connects as all does that the gateway asks for itself: to allowed
// addresses, and through no proxy.
func dial(target *url.URL, trust *tls.Config, dialer *net.Dialer) any {
	secure := insecure.NewCredentials()
	if target.Scheme == "grpcs" {
		secure = credentials.NewTLS(trust)
	}
	conn, err := grpc.NewClient("dns:///"+target.Host,
		grpc.WithTransportCredentials(secure), grpc.WithUserAgent("gatehouse"), grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largestAnswer)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}, MinConnectTimeout: time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		return err
	}
	return &connection{conn}
}
