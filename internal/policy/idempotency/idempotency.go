// Package idempotency is the policy that carries a request out once, however
// often it is sent. It owns the Idempotency-Key field, what makes two requests
// the same, and what a repetition is answered. A request goes on only after it
// is written down that it does; when nobody knows how it ended, it is not
// carried out again unless the configuration says so.
package idempotency

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/replay"
)

// Kind is the kind "idempotency".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "idempotency", Stage: policy.Admit,
		New: func() policy.Config {
			return &Config{
				Methods: policy.StringList{"POST", "PATCH"}, TTL: policy.Duration(24 * time.Hour), MaxBody: 1 << 20, MaxAnswer: 1 << 20,
				InFlight: "wait", Wait: policy.Duration(10 * time.Second), Lease: policy.Duration(time.Minute), Unknown: "refuse",
				Store: "local", OnFailure: "closed", Timeout: policy.Duration(time.Second),
			}
		},
		Doc: "Carries out a request with an Idempotency-Key once, and answers repetitions with the first answer.",
	}
}

// Config says which requests, for how long, and what a repetition is answered.
type Config struct {
	// Methods whose requests are looked at.
	Methods policy.StringList `yaml:"methods"`
	// Refuse requests of these methods that have no key.
	Required bool `yaml:"required"`
	// How long an answer is kept.
	TTL policy.Duration `yaml:"ttl" min:"1s" max:"8760h"`
	// Largest body of a request in bytes; above it 413.
	MaxBody policy.Size `yaml:"max_body" min:"1" max:"64MiB"`
	// Largest answer in bytes, its fields included, that is kept. A larger one is sent, and repetitions are told that it is lost.
	MaxAnswer policy.Size `yaml:"max_answer" min:"1KiB" max:"64MiB"`
	// What a repetition does while the first request is under way: wait for its answer, or refuse at once with 409.
	InFlight string `yaml:"in_flight" enum:"wait,refuse"`
	// How long a repetition waits before it is answered 409.
	Wait policy.Duration `yaml:"wait" min:"1ms" max:"5m"`
	// Longest time that a request may take. After it, nobody is thought to carry it out any more.
	Lease policy.Duration `yaml:"lease" min:"1s" max:"1h"`
	// What a repetition does when nobody knows how the first request ended, because the gateway or the service broke off in the middle: refuse with 409, or retry.
	Unknown string `yaml:"unknown" enum:"refuse,retry"`
	// Where answers are kept: local is the file in data_folder, redis what "redis" of the configuration names.
	Store string `yaml:"store" enum:"local,redis"`
	// What to do with a key while the store does not answer: closed answers 503, open lets the request pass as if it had none.
	OnFailure string `yaml:"on_failure" enum:"closed,open"`
	// How long to wait for the store.
	Timeout policy.Duration `yaml:"timeout" min:"1ms" max:"1m"`
}

// Compile finds the store.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	var faults []error
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: field, Text: text, Hint: hint})
	}
	if len(c.Methods) == 0 {
		fault("methods", "no method is looked at", "leave it out for POST and PATCH")
	}
	for i, m := range c.Methods {
		if !policy.IsToken(m) || slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, m) {
			fault(fmt.Sprintf("methods[%d]", i), fmt.Sprintf("%q changes nothing, or is no method", m), "write POST, PATCH, PUT or DELETE")
		}
	}
	service, hint := "durable", "add data_folder: /var/lib/gatehouse to the configuration, or use redis"
	if c.Store == "redis" {
		service, hint = "redis", "add redis: { url: redis://127.0.0.1:6379 } to the configuration"
	}
	store, ok := env.Service(service).(replay.Store)
	if !ok {
		fault("store", fmt.Sprintf("there is nowhere to keep answers: %s is not configured", service), hint)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return &keeper{
		store: store, methods: slices.Clone(c.Methods), required: c.Required, at: env.At, ttl: c.TTL.D(), lease: c.Lease.D(),
		wait: c.Wait.D(), waits: c.InFlight == "wait", retry: c.Unknown == "retry", open: c.OnFailure == "open", timeout: c.Timeout.D(),
		maxBody: int64(c.MaxBody), maxAnswer: int(c.MaxAnswer), slot: policy.NewSlot[state](env), tell: policy.NewTeller(env),
	}, nil
}

// The answers to what cannot be carried out (draft-ietf-httpapi-idempotency-key,
// section 2.7).
var (
	missing = exchange.Problem{
		Status: 400, Code: "idempotency_key_missing", Side: exchange.SideClient,
		Detail: "This request needs an Idempotency-Key.",
	}
	invalid = exchange.Problem{
		Status: 400, Code: "idempotency_key_invalid", Side: exchange.SideClient,
		Detail: "The Idempotency-Key is not one text of 1 to 255 printable characters.",
	}
	reused = exchange.Problem{
		Status: 422, Code: "idempotency_key_reused", Side: exchange.SideClient,
		Detail: "This Idempotency-Key was used for another request.",
	}
	inFlight = exchange.Problem{
		Status: 409, Code: "idempotency_in_flight", Side: exchange.SideClient, Retry: time.Second,
		Detail: "A request with this Idempotency-Key is being carried out.",
	}
	unknown = exchange.Problem{
		Status: 409, Code: "idempotency_unknown", Side: exchange.SideGateway,
		Detail: "A request with this Idempotency-Key broke off, and how it ended is not known. Look before you send it with another key.",
	}
	lost = exchange.Problem{
		Status: 409, Code: "idempotency_answer_lost", Side: exchange.SideGateway,
		Detail: "The request with this Idempotency-Key was carried out. Its answer was too large to be kept.",
	}
	down = exchange.Problem{
		Status: 503, Code: "idempotency_unavailable", Side: exchange.SideGateway, Retry: time.Second,
		Detail: "The gateway cannot tell at present whether this request was carried out before.",
	}
)
