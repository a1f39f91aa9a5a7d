package opa

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"gatehouse.dev/gatehouse/internal/decision"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/rego"
)

// asker puts requests as input of a rule.
type asker struct {
	rule   *rego.Program // nil: OPA is asked
	client *fetch.Client
	url    string
	token  policy.Secret
}

// question is the input of a rule, as JSON.
type question struct {
	asker *asker
	text  []byte
}

var (
	_ decision.Service  = (*asker)(nil)
	_ decision.Question = (*question)(nil)
)

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
	ParsedBody  bool                `json:"parsed_body"`  // false: Body is missing because it has no single reading as JSON
}

// Reaches says which server is asked, unless the rule runs here.
func (a *asker) Reaches(*exchange.Exchange) string {
	if a.rule != nil {
		return ""
	}
	return "asks " + a.url
}

// Ask writes the input.
func (a *asker) Ask(x *exchange.Exchange, fields map[string]string, body []byte) (decision.Question, error) {
	text, err := json.Marshal(map[string]*input{"input": newInput(x, fields, body)})
	return &question{a, text}, err
}

// Key is all that the rule sees.
func (q *question) Key() ([]byte, error) { return q.text, nil }

// largestAnswer bounds what OPA may say, in bytes.
const largestAnswer = 256 << 10

// Answer has the rule decide, here or there.
func (q *question) Answer(ctx context.Context) (*decision.Verdict, error) {
	a := q.asker
	if a.rule != nil {
		text, err := a.rule.Answer(ctx, q.text)
		if err != nil {
			return nil, err
		}
		return read(text)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if a.token.IsSet() {
		header.Set("Authorization", "Bearer "+a.token.Reveal())
	}
	answer, err := a.client.Do(ctx, http.MethodPost, a.url, header, q.text)
	if err != nil {
		if errors.Is(err, fetch.ErrLarge) {
			return nil, err
		}
		return nil, decision.Silent(err)
	}
	switch answer.Status {
	case http.StatusOK:
		return read(answer.Body)
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return nil, decision.Silent(fmt.Errorf("opa answered %d", answer.Status))
	}
	// It is there, and something of the request may be why it does not decide.
	return nil, fmt.Errorf("opa answered %d", answer.Status)
}

// read reads the answer. A rule that is undefined has no result, and refuses.
// Names are those of OPA to the letter.
func read(text []byte) (*decision.Verdict, error) {
	var outer map[string]json.RawMessage
	if err := json.Unmarshal(text, &outer); err != nil {
		return nil, fmt.Errorf("opa answered no JSON object: %w", err)
	}
	v := new(decision.Verdict)
	switch r := string(outer["result"]); {
	case r == "", r == "false", r == "null":
		return v, nil
	case r == "true":
		v.Allow = true
		return v, nil
	case r[0] != '{':
		return nil, errors.New("the rule yields neither a truth value nor an object")
	}
	var parts map[string]json.RawMessage
	var fields map[string]string
	err := json.Unmarshal(outer["result"], &parts)
	for name, into := range map[string]any{"allow": &v.Allow, "http_status": &v.Status, "headers": &fields} {
		if part, ok := parts[name]; ok && err == nil {
			err = json.Unmarshal(part, into)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("what the rule yields cannot be read: %w", err)
	}
	if v.Status < 400 {
		v.Status = 0 // a rule has no place to send anybody to
	}
	if !v.Allow {
		return v, nil
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		v.Request = append(v.Request, exchange.Field{Name: name, Value: fields[name]})
	}
	return v, nil
}

func newInput(x *exchange.Exchange, fields map[string]string, body []byte) *input {
	r := &x.Request
	in := &input{
		Method: r.Method, RawPath: r.Path, Host: r.Host, Scheme: r.Scheme, Client: x.Client.IP, Listener: x.Client.Listener,
		Route: x.Route.Name, Params: make(map[string]string), Headers: fields, ParsedBody: true,
		Consumer: x.Who.Consumer, Subject: x.Who.Subject, Groups: x.Who.Groups, Scopes: x.Who.Scopes, Labels: x.Who.Labels, Claims: x.Who.Claims,
	}
	in.Path = strings.Split(strings.TrimPrefix(r.Path, "/"), "/")
	query, err := url.ParseQuery(r.Query)
	if in.ParsedQuery = err == nil; in.ParsedQuery {
		in.Query = query
	}
	for _, p := range x.Route.Params {
		in.Params[p.Name] = p.Value
	}
	if len(body) > 0 {
		if in.ParsedBody = unambiguous(body); in.ParsedBody {
			in.Body = body
		}
	}
	return in
}

// unambiguous tells whether a text is JSON that everybody reads alike: of a name
// that stands twice a rule would see one value, and the service another.
func unambiguous(text []byte) bool {
	if !json.Valid(text) || !utf8.Valid(text) {
		return false
	}
	type level struct {
		names map[string]bool // nil in a list
		value bool            // the value of a name comes next
	}
	var levels []level
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	for {
		t, err := d.Token()
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		var top *level
		if len(levels) > 0 {
			top = &levels[len(levels)-1]
		}
		name, isText := t.(string)
		if top != nil && top.names != nil && !top.value && isText {
			if top.names[name] {
				return false
			}
			top.names[name], top.value = true, true
			continue
		}
		if top != nil {
			top.value = false
		}
		switch t {
		case json.Delim('{'):
			levels = append(levels, level{names: make(map[string]bool)})
		case json.Delim('['):
			levels = append(levels, level{})
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
	}
}
