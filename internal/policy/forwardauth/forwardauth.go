// Package forwardauth is the policy that asks an HTTP service whether a request
// may go on. It owns which fields go there and which come back: what is not
// listed does neither.
package forwardauth

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "forward_auth".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "forward_auth", Stage: policy.Identify,
		New: func() policy.Config {
			return &Config{
				Send: policy.StringList{"Authorization", "Cookie"}, Answer: policy.StringList{"WWW-Authenticate"},
				Forward: true, HTTP: fetch.Default(),
			}
		},
		Doc: "Asks an HTTP service whether a request may go on, and who asks.",
	}
}

// Config says whom to ask, and what.
type Config struct {
	// URL that is asked with GET. An answer 2xx lets the request go on, 401, 403, 404 and 429 refuse it with that status, 302, 303 and 307 send the client elsewhere, anything else is answered 503.
	URL string `yaml:"url" required:"true" example:"http://127.0.0.1:9000/check"`
	// Fields of the request that are sent. "X-Forwarded-Method", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Uri" and "X-Forwarded-For" are sent in any case, as the gateway knows them.
	Send policy.StringList `yaml:"send"`
	// Fields of a 2xx answer that the service gets in the request. Those of these names that a client sends are removed, also when the answer has none.
	Take policy.StringList `yaml:"take" example:"X-User"`
	// Fields of any other answer that the client gets.
	Answer policy.StringList `yaml:"answer"`
	// Field of a 2xx answer that names the consumer. An answer without it is nobody's in particular; with one that is not known the request is refused. A client's own is removed.
	ConsumerField string `yaml:"consumer_field" example:"X-Consumer"`
	// Field of a 2xx answer that names whom the request is from. A client's own is removed.
	SubjectField string `yaml:"subject_field" example:"X-User"`
	// Whether the fields that were sent go on to the service.
	Forward bool `yaml:"forward"`
	// How the service is asked.
	HTTP fetch.Settings `yaml:"http"`
	// Fields that tell the service who asks, by name: "consumer", "subject", "method", "credential", "groups", "scopes", "labels.NAME" or "claims.NAME". Fields of these names that a client sends are removed.
	Headers map[string]string `yaml:"headers"`
}

// Compile checks the settings. It asks nobody.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	var faults []error
	if f := c.HTTP.Check(c.URL); f != nil {
		f.Field = "url"
		faults = append(faults, f)
	}
	m := &method{config: c, taken: policy.NewSlot[[]exchange.Field](env)}
	for _, l := range []struct {
		key   string
		names policy.StringList
		into  *[]exchange.Field
	}{{"send", c.Send, &m.send}, {"take", c.Take, &m.take}, {"answer", c.Answer, &m.answer}} {
		for i, name := range l.names {
			f, known := policy.CheckField(name), exchange.LookupKnown(name)
			told := l.key == "take" && exchange.Asserted&known.Bit() != 0
			if f == nil && (told || strings.HasPrefix(strings.ToLower(name), "x-forwarded-")) {
				f = &policy.Fault{Text: fmt.Sprintf("%q is set by the gateway alone", name), Hint: "remove it"}
			}
			if f != nil {
				f.Field = fmt.Sprintf("%s[%d]", l.key, i)
				faults = append(faults, f)
				continue
			}
			*l.into = append(*l.into, exchange.Field{Name: name, Known: known})
		}
	}
	m.own = slices.Clone(m.take)
	for _, n := range []struct{ key, name string }{{"consumer_field", c.ConsumerField}, {"subject_field", c.SubjectField}} {
		if n.name == "" {
			continue
		}
		if f := policy.CheckField(n.name); f != nil {
			f.Field = n.key
			faults = append(faults, f)
		}
		m.own = append(m.own, exchange.Field{Name: n.name, Known: exchange.LookupKnown(n.name)})
	}
	if c.ConsumerField != "" {
		var ok bool
		if m.names, ok = env.Service("consumers").(identify.Names); !ok {
			faults = append(faults, errors.New("there are no consumers to identify"))
		}
	}
	client, err := fetch.New(c.HTTP)
	if err != nil {
		faults = append(faults, identify.Within("http", err))
	}
	step, err := identify.New(env, m, nil, identify.Options{Headers: c.Headers})
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	m.client = env.Keep("client "+identify.Fingerprint(c.HTTP), func() any { return client }).(*fetch.Client)
	return step, nil
}
