// Package opa is the policy that asks Open Policy Agent whether a request may
// pass, by OPA's data API over HTTP, or a rule in Rego that runs in the gateway.
// It owns the input that a rule sees and the reading of what the rule yields.
// What is shown and what may be changed is that of all decisions.
package opa

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/decision"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/rego"
)

// Kind is the kind "opa".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "opa", Stage: policy.Authorize,
		New: func() policy.Config {
			return &Config{Timeout: policy.Duration(200 * time.Millisecond), CacheEntries: 10_000}
		},
		Doc: "Asks Open Policy Agent by its data API, or a rule in Rego that runs in the gateway, whether a request may pass.",
	}
}

// Config says which rule to ask, what to show, and what the answer may change.
type Config struct {
	// URL of the rule: http://host:8181/v1/data/package/rule. The rule yields true, or an object with "allow".
	URL string `yaml:"url" example:"http://127.0.0.1:8181/v1/data/http/authz/allow"`
	// A rule that runs in the gateway, instead of url.
	Rego *Rego `yaml:"rego"`
	// Token that OPA wants, sent as a bearer.
	Token policy.Secret `yaml:"token"`
	// How long to wait for a decision.
	Timeout policy.Duration `yaml:"timeout" min:"1ms" max:"1m"`
	// Let requests pass while OPA cannot be reached or does not answer in time. Otherwise they are answered 503, as they are in any case when it answers and does not decide. A rule that is undefined is a refusal. Not with rego, which is always there.
	FailOpen bool `yaml:"fail_open"`
	// Request fields that are shown. Default: all of them.
	Headers policy.StringList `yaml:"headers" example:"Authorization"`
	// Largest JSON body in bytes that is shown, as a whole; a larger one is answered 413. 0 shows none.
	Body policy.Size `yaml:"body" max:"16MiB"`
	// Request fields that the rule may set, by an object "headers". They are taken off what the client sends, whatever the rule says.
	Sets policy.StringList `yaml:"sets" example:"X-User"`
	// How long a decision is remembered for the same input. 0 is not at all. It needs headers to name what is shown.
	CacheTTL policy.Duration `yaml:"cache_ttl" max:"1h"`
	// Decisions that are remembered at most.
	CacheEntries int `yaml:"cache_entries" min:"2" max:"1000000"`
	// Only log what would be refused.
	DryRun bool `yaml:"dry_run"`
}

// Rego is a rule that runs in the gateway. It is compiled when the configuration is loaded, and has no builtins that reach for the network.
type Rego struct {
	// File of the module, at most 1 MiB.
	File string `yaml:"file" file:"true" example:"authz.rego"`
	// The module itself, instead of a file.
	Module string `yaml:"module"`
	// The rule: data.package.rule. It yields true, or an object with "allow".
	Query string `yaml:"query" required:"true" example:"data.http.authz.allow"`
}

// compile reads and compiles the rule, and returns what tells it from others.
func (r *Rego) compile() (*rego.Program, string, error) {
	name, module := "module", r.Module
	if (r.File == "") == (r.Module == "") {
		return nil, "", &policy.Fault{Field: "rego", Text: "a rule comes from a file or is a module", Hint: "write one of file and module"}
	}
	if r.File != "" {
		text, err := readFile(r.File)
		if err != nil {
			return nil, "", &policy.Fault{Field: "rego.file", Text: err.Error()}
		}
		name, module = r.File, text
	}
	rule, err := rego.Compile(name, module, r.Query)
	if err != nil {
		return nil, "", &policy.Fault{Field: "rego", Text: err.Error()}
	}
	return rule, fmt.Sprintf("rego %x", sha256.Sum256([]byte(module+"\x00"+r.Query))), nil
}

// readFile reads no more than a module may be long, and a byte to tell.
func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, rego.MostBytes+1))
	return string(text), err
}

// Repeatable says that the rules of all levels are asked.
func (*Config) Repeatable() {}

// Compile finds the live connections.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	var faults []error
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: field, Text: text, Hint: hint})
	}
	a := &asker{url: c.URL, token: c.Token}
	terms := decision.Terms{
		Timeout: c.Timeout.D(), FailOpen: c.FailOpen, Headers: c.Headers, Body: int64(c.Body), Sets: c.Sets,
		CacheTTL: c.CacheTTL.D(), CacheEntries: c.CacheEntries, DryRun: c.DryRun,
		Refused:     exchange.Problem{Status: 403, Code: "opa_denied"},
		Unavailable: exchange.Problem{Status: 503, Code: "opa_unavailable"},
		Source:      c.URL + " " + c.Token.Fingerprint(),
	}
	switch {
	case (c.URL == "") == (c.Rego == nil):
		fault("url", "a rule is asked for by its URL, or runs here", "write one of url and rego")
	case c.Rego != nil && c.Token.IsSet():
		fault("token", "a rule that runs here takes no token", "remove it")
	case c.Rego != nil && c.FailOpen:
		fault("fail_open", "a rule that runs here is never out of reach", "remove it")
	case c.Rego != nil:
		var err error
		if a.rule, terms.Source, err = c.Rego.compile(); err != nil {
			faults = append(faults, err)
		}
	default:
		target, err := url.Parse(c.URL)
		if err != nil || target.Scheme != "http" && target.Scheme != "https" || target.Host == "" || !strings.HasPrefix(target.Path, "/v1/data/") || target.RawQuery != "" || target.User != nil {
			fault("url", fmt.Sprintf("%q is not the URL of a rule", c.URL), "write http://host:8181/v1/data/package/rule")
		}
	}
	step, err := decision.New(env, terms, a)
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	if a.rule == nil {
		// The URL may be http on any host: OPA beside the gateway often is.
		s := fetch.Settings{Timeout: c.Timeout, MaxBody: largestAnswer, Plain: true}
		client, err := fetch.New(s)
		if err != nil {
			return nil, err
		}
		a.client = env.Keep("client "+s.Fingerprint(), func() any { return client }).(*fetch.Client)
	}
	return step, nil
}
