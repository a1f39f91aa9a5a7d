package opa

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/decision"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/rego"
)

var (
	_ policy.Holds     = (*asker)(nil)
	_ policy.OnRequest = (*asker)(nil)
)

// asker asks, and does what the rule says.
type asker struct {
	rule    *rego.Program // nil: OPA is asked
	client  *fetch.Client
	url     string
	token   policy.Secret
	timeout time.Duration
	open    bool
	body    int64
	headers []string // lower case; none: all
	sets    []string
	cache   *decision.Cache[*verdict]
	tell    *policy.Teller
	dryRun  bool
}

// verdict is what a rule yields.
type verdict struct {
	Allow   bool              `json:"allow"`
	Headers map[string]string `json:"headers"`     // set on the request
	Status  int               `json:"http_status"` // of a refusal
}

// input is what a rule sees. Its names are those of the OPA documentation for
// HTTP APIs, with the path in its parts.
type input struct {
	Method      string              `json:"method"`
	Path        []string            `json:"path"`
	RawPath     string              `json:"raw_path"`
	Query       map[string][]string `json:"query"`
	Host        string              `json:"host"`
	Scheme      string              `json:"scheme"`
	Headers     map[string]string   `json:"headers"`
	Body        json.RawMessage     `json:"body,omitempty"`
	Client      string              `json:"client"`
	Listener    string              `json:"listener"`
	Route       string              `json:"route"`
	Params      map[string]string   `json:"params"`
	Consumer    string              `json:"consumer"`
	Subject     string              `json:"subject"`
	Groups      []string            `json:"groups"`
	Scopes      []string            `json:"scopes"`
	Labels      map[string]string   `json:"labels"`
	Claims      map[string]any      `json:"claims"`
	ParsedQuery bool                `json:"parsed_query"` // false: Query is empty because it could not be read
}

// HoldRequest is the largest body that is shown.
func (a *asker) HoldRequest() int64 { return a.body }

// HoldResponse is nothing.
func (a *asker) HoldResponse() int64 { return 0 }

func (a *asker) Request(x *exchange.Exchange) policy.Verdict {
	for _, name := range a.sets {
		x.Request.Header.Del(name) // before the rule sees it: nobody else may say this
	}
	v, err := a.decide(x)
	switch {
	case err != nil && a.open:
		a.tell.Spared(policy.FailOpen, "a request was let through by fail_open: the rule was not asked", "error", err)
		return policy.Next
	case err != nil:
		x.Fail(unavailable.With(err))
		return policy.Stop
	case v.Allow:
		for name, value := range v.Headers {
			if slices.Contains(a.sets, strings.ToLower(name)) && policy.CheckValue(value) == nil {
				x.Request.Header.Add(name, value)
			}
		}
		return policy.Next
	case a.dryRun:
		a.tell.Spared(policy.DryRun, "a request was let through by dry_run", "request_id", x.RequestID())
		return policy.Next
	}
	p := &refused
	if v.Status >= 400 && v.Status <= 599 && v.Status != p.Status {
		other := refused
		other.Status = v.Status
		p = &other
	}
	x.Fail(p)
	return policy.Stop
}

// Reaches says which server is asked, unless the rule runs here.
func (a *asker) Reaches(*exchange.Exchange) string {
	if a.rule != nil {
		return ""
	}
	return "asks " + a.url
}

func (a *asker) decide(x *exchange.Exchange) (*verdict, error) {
	question, err := json.Marshal(map[string]*input{"input": a.input(x)})
	if err != nil {
		return nil, fmt.Errorf("the input cannot be written: %w", err)
	}
	key := ""
	if a.cache != nil {
		sum := sha256.Sum256(question)
		key = string(sum[:])
		if v, ok := a.cache.Get(key); ok {
			return v, nil
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.timeout)
	defer cancel()
	v, err := a.ask(ctx, question)
	if err == nil {
		a.cache.Put(key, v)
	}
	return v, err
}

// largestAnswer bounds what OPA may say, in bytes.
const largestAnswer = 256 << 10

func (a *asker) ask(ctx context.Context, question []byte) (*verdict, error) {
	if a.rule != nil {
		text, err := a.rule.Answer(ctx, question)
		if err != nil {
			return nil, err
		}
		return read(text)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if a.token.IsSet() {
		header.Set("Authorization", "Bearer "+a.token.Reveal())
	}
	answer, err := a.client.Do(ctx, http.MethodPost, a.url, header, question)
	if err != nil {
		return nil, err
	}
	if answer.Status != http.StatusOK {
		return nil, fmt.Errorf("opa answered %d", answer.Status)
	}
	return read(answer.Body)
}

// read reads the answer. A rule that is undefined has no result, and refuses.
func read(text []byte) (*verdict, error) {
	var outer struct {
		Result json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(text, &outer); err != nil {
		return nil, fmt.Errorf("opa answered no JSON: %w", err)
	}
	v := new(verdict)
	switch r := bytes.TrimSpace(outer.Result); {
	case len(r) == 0, string(r) == "false", string(r) == "null":
		return v, nil
	case string(r) == "true":
		v.Allow = true
		return v, nil
	case r[0] != '{':
		return nil, errors.New("the rule yields neither a truth value nor an object")
	}
	if err := json.Unmarshal(outer.Result, v); err != nil {
		return nil, fmt.Errorf("what the rule yields cannot be read: %w", err)
	}
	return v, nil
}

func (a *asker) input(x *exchange.Exchange) *input {
	r := &x.Request
	in := &input{
		Method: r.Method, RawPath: r.Path, Host: r.Host, Scheme: r.Scheme, Client: x.Client.IP, Listener: x.Client.Listener,
		Route: x.Route.Name, Params: make(map[string]string), Headers: make(map[string]string),
		Consumer: x.Who.Consumer, Subject: x.Who.Subject, Groups: x.Who.Groups, Scopes: x.Who.Scopes, Labels: x.Who.Labels, Claims: x.Who.Claims,
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(r.Path, "/"), "/") {
		in.Path = append(in.Path, part)
	}
	query, err := url.ParseQuery(r.Query)
	in.Query, in.ParsedQuery = query, err == nil
	if err != nil {
		in.Query = nil
	}
	for _, p := range x.Route.Params {
		in.Params[p.Name] = p.Value
	}
	for name, value := range r.Header.All() {
		name = strings.ToLower(name)
		if len(a.headers) > 0 && !slices.Contains(a.headers, name) {
			continue
		}
		if before, ok := in.Headers[name]; ok {
			value = before + ", " + value
		}
		in.Headers[name] = value
	}
	if body, ok := exchange.Held(r.Body); ok && a.body > 0 && json.Valid(body) {
		in.Body = body
	}
	return in
}
