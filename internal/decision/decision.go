// Package decision owns what it is to have somebody else decide whether a
// request may pass, whoever that is: what of the request is shown, how long is
// waited, what no decision means, what a decision may change, and how long it
// is remembered. It knows no protocol and no language of rules, and it refuses
// in doubt: only a service that does not answer can be passed by, never one
// that answers oddly, since what makes it do so may be the request.
package decision

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Terms are what settings say of how decisions are asked for.
type Terms struct {
	Timeout      time.Duration
	FailOpen     bool              // requests pass while the service does not answer
	Headers      policy.StringList // fields that are shown; none: all
	Body         int64             // largest body that is shown; 0: none
	Sets         policy.StringList // request fields that the service may set
	Answers      policy.StringList // fields of the answer to the client that it may set
	CacheTTL     time.Duration
	CacheEntries int
	DryRun       bool

	// The problems of what is refused and of what nobody decides: their status and
	// code. The rest is the same for all.
	Refused, Unavailable exchange.Problem

	Source string // whatever else decisions come from than what is shown
}

// Service decides.
type Service interface {
	// Reaches says who would be asked, as policy.Reaches has it.
	policy.Reaches
	// Ask puts a request in words. Fields are those that are shown, names in
	// lower case, and body is nil where none is.
	Ask(x *exchange.Exchange, fields map[string]string, body []byte) (Question, error)
}

// Question is what a service is asked about one request.
type Question interface {
	// Key returns all that the answer may be made from.
	Key() ([]byte, error)
	// Answer asks. An error that is not Silent means that the service answers,
	// and does not decide.
	Answer(ctx context.Context) (*Verdict, error)
}

// Verdict is what a service decided. Nothing writes to it after it was given.
type Verdict struct {
	Allow   bool
	Request []exchange.Field // set on what goes on
	Remove  []string         // names of fields that do not go on
	Answer  []exchange.Field // set on what the client gets
	Status  int              // of a refusal; 403 where it is no status of one
	Body    string           // of a refusal
}

// Silent makes the error of a service that does not answer.
func Silent(err error) error { return &silent{err} }

type silent struct{ error }

func (s *silent) Unwrap() error { return s.error }

// Step is the policy: it asks, and does what the service says.
type Step struct {
	service     Service
	terms       Terms
	headers     []string // lower case
	sets        []string
	answers     []string
	cache       *cache[*Verdict]
	slot        policy.Slot[state]
	tell        *policy.Teller
	refused     exchange.Problem
	unavailable exchange.Problem
}

// state is what the answer to the client gets.
type state struct{ fields []exchange.Field }

var (
	_ policy.Holds      = (*Step)(nil)
	_ policy.OnRequest  = (*Step)(nil)
	_ policy.OnResponse = (*Step)(nil)
	_ policy.Reaches    = (*Step)(nil)
)

func isAsserted(name string) bool {
	k := exchange.LookupKnown(name)
	return k != exchange.Other && exchange.Asserted&k.Bit() != 0
}

// New checks the terms and returns the step, or all that is wrong.
func New(env *policy.Env, terms Terms, service Service) (*Step, error) {
	var faults []error
	names := func(key string, list []string) []string {
		out := make([]string, len(list))
		for i, name := range list {
			f := policy.CheckField(name)
			if f == nil && key != "headers" && isAsserted(name) {
				f = &policy.Fault{Text: fmt.Sprintf("%q is asserted by the gateway", name), Hint: "remove it"}
			}
			if f != nil {
				f.Field = fmt.Sprintf("%s[%d]", key, i)
				faults = append(faults, f)
			}
			out[i] = strings.ToLower(name)
		}
		return out
	}
	s := &Step{
		service: service, terms: terms, slot: policy.NewSlot[state](env), tell: policy.NewTeller(env),
		headers: names("headers", terms.Headers), sets: names("sets", terms.Sets), answers: names("answers", terms.Answers),
		refused: terms.Refused, unavailable: terms.Unavailable,
	}
	s.refused.Side, s.refused.Detail = exchange.SideClient, "You may not make this request."
	s.unavailable.Side, s.unavailable.Detail = exchange.SideGateway, "Nobody can decide at present whether you may make this request."
	s.unavailable.Retry = time.Second
	if terms.CacheTTL > 0 && len(terms.Headers) == 0 {
		faults = append(faults, &policy.Fault{Field: "cache_ttl", Text: "a decision made from all fields is never asked for again", Hint: "name in headers what it is made from"})
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if terms.CacheTTL > 0 {
		kept := fmt.Sprintf("decisions %q %q %q %q %d %d %s", s.headers, s.sets, s.answers, terms.CacheTTL, terms.CacheEntries, terms.Body, terms.Source)
		s.cache = env.Keep(kept, func() any { return newCache[*Verdict](terms.CacheEntries, terms.CacheTTL) }).(*cache[*Verdict])
	}
	return s, nil
}

// HoldRequest is the largest body that is shown.
func (s *Step) HoldRequest() int64 { return s.terms.Body }

// HoldResponse is nothing.
func (s *Step) HoldResponse() int64 { return 0 }

// Reaches says who is asked.
func (s *Step) Reaches(x *exchange.Exchange) string { return s.service.Reaches(x) }

// Request asks whether a request may pass.
func (s *Step) Request(x *exchange.Exchange) policy.Verdict {
	for _, name := range s.sets {
		x.Request.Header.Del(name) // before the service sees it: nobody else may say this
	}
	v, gone, err := s.decide(x)
	var noAnswer *silent
	switch {
	case gone != nil:
		x.Fail(policy.ClientGone(gone))
		return policy.Stop
	case err == nil && v.Allow:
		s.pass(x, v)
		return policy.Next
	case err != nil && s.terms.FailOpen && errors.As(err, &noAnswer):
		s.tell.Spared(policy.FailOpen, "a request was let through by fail_open: nobody decides", "error", err)
		return policy.Next
	case err != nil && s.terms.DryRun:
		s.tell.Spared(policy.DryRun, "a request was let through by dry_run", "request_id", x.RequestID(), "error", err)
		return policy.Next
	case err != nil:
		x.Fail(s.unavailable.With(err))
		return policy.Stop
	case s.terms.DryRun:
		s.tell.Spared(policy.DryRun, "a request was let through by dry_run", "request_id", x.RequestID(), "status", v.Status)
		return policy.Next
	}
	s.refuse(x, v)
	return policy.Stop
}

var errNotHeld = errors.New("the body to be shown is not in memory")

// decide returns what the service says, or said of a request that is shown the
// same. gone is the reason when nobody waits for the answer any more.
func (s *Step) decide(x *exchange.Exchange) (v *Verdict, gone, err error) {
	var body []byte
	if s.terms.Body > 0 {
		var held bool
		if body, held = exchange.Held(x.Request.Body); !held {
			return nil, nil, errNotHeld
		}
	}
	q, err := s.service.Ask(x, s.shown(&x.Request.Header), body)
	if err != nil {
		return nil, nil, fmt.Errorf("the question cannot be written: %w", err)
	}
	key := ""
	if s.cache != nil {
		text, err := q.Key()
		if err != nil {
			return nil, nil, fmt.Errorf("the question cannot be written: %w", err)
		}
		sum := sha256.Sum256(text)
		key = string(sum[:])
		if v, ok := s.cache.get(key); ok {
			return v, nil, nil
		}
	}
	ctx, end := policy.Context(x, s.terms.Timeout)
	v, err = q.Answer(ctx)
	if gone := end(); gone != nil {
		return nil, gone, nil
	}
	if err != nil {
		return nil, nil, err
	}
	s.restrict(v)
	if v.size() <= largestKept {
		s.cache.put(key, v)
	}
	return v, nil, nil
}

// shown are the fields that the service sees, the lines of one joined: a rule
// sees all of them.
func (s *Step) shown(h *exchange.Header) map[string]string {
	out := make(map[string]string, h.Len())
	for name, value := range h.All() {
		name = strings.ToLower(name)
		if len(s.headers) > 0 && !slices.Contains(s.headers, name) {
			continue
		}
		if before, ok := out[name]; ok {
			sep := ", "
			if name == "cookie" {
				sep = "; "
			}
			value = before + sep + value
		}
		out[name] = value
	}
	return out
}

// restrict leaves of a decision what the service may decide.
func (s *Step) restrict(v *Verdict) {
	if v.Allow {
		v.Request, v.Answer = s.may(v.Request, s.sets), s.may(v.Answer, s.answers)
		v.Remove = slices.DeleteFunc(v.Remove, func(name string) bool { return policy.CheckField(name) != nil || isAsserted(name) })
		return
	}
	if v.Status < 300 || v.Status > 599 || v.Status == 304 {
		v.Status = s.refused.Status
	}
	v.Answer = s.sound(v.Answer)
}

// may leaves the fields of a list.
func (s *Step) may(fields []exchange.Field, list []string) []exchange.Field {
	return slices.DeleteFunc(s.sound(fields), func(f exchange.Field) bool {
		if slices.Contains(list, strings.ToLower(f.Name)) {
			return false
		}
		s.tell.Warn("the service sets a field that it may not set", "field", f.Name)
		return true
	})
}

// sound leaves the fields that a message may carry.
func (s *Step) sound(fields []exchange.Field) []exchange.Field {
	fields = slices.DeleteFunc(fields, func(f exchange.Field) bool {
		return policy.CheckField(f.Name) != nil || policy.CheckValue(f.Value) != nil
	})
	for i := range fields {
		fields[i].Known = exchange.LookupKnown(fields[i].Name)
	}
	return fields
}

// pass changes the request as the service says.
func (s *Step) pass(x *exchange.Exchange, v *Verdict) {
	h := &x.Request.Header
	for _, name := range v.Remove {
		h.Del(name)
	}
	for _, f := range v.Request {
		h.Append(f)
	}
	if len(v.Answer) > 0 {
		s.slot.Get(x).fields = v.Answer
	}
}

// refuse answers as the service says. Without a body of its own the answer is
// a problem like any other.
func (s *Step) refuse(x *exchange.Exchange, v *Verdict) {
	if v.Body == "" {
		p := s.refused
		p.Status, p.Fields = v.Status, v.Answer
		x.Fail(&p)
		return
	}
	r := &x.Response
	r.Reset()
	r.Status = v.Status
	for _, f := range v.Answer {
		r.Header.Append(f)
	}
	r.SetBody([]byte(v.Body))
}

// Response adds what the service has for the client.
func (s *Step) Response(x *exchange.Exchange) {
	if len(s.answers) == 0 {
		return
	}
	for _, f := range s.slot.Get(x).fields {
		x.Response.Header.Append(f)
	}
}
